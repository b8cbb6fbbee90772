// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

// Command vmstream-sink-netbackup is the sink of NetBackup as a program of its own.
package main

import (
	"fmt"
	"os"

	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks/netbackup"
)

func main() {
	if err := plugins.Serve(netbackup.Driver(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "vmstream-sink-netbackup:", err)
		os.Exit(1)
	}
}
