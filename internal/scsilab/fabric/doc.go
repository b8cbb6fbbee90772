// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package fabric sets up, in the guest of package scsilab, what Linux's own target
// presents: LUNs for several host adapters of the same kernel, each of which is an
// initiator of its own. Tests in the guest change it while they run.
package fabric
