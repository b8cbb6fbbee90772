// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package plugins runs sinks in processes of their own, through
// github.com/hashicorp/go-plugin: what is wrong in one, or in what it is linked
// with, is not wrong in the process that reads the disks.
package plugins
