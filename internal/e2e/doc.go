// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package e2e has tests that run vmstream under real backup software: daemons on
// the loopback, all files in temporary directories. They run with VMSTREAM_E2E=1, as
// make e2e does, and some of them only with VMSTREAM_E2E=all; scripts/e2e-packages
// lists the Debian packages that they need.
package e2e
