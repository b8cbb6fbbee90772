// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Command vmstream-sink-ssh is the sink of files on another host as a program of its own.
package main

import (
	"fmt"
	"os"

	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks/ssh"
)

func main() {
	if err := plugins.Serve(ssh.Driver(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "vmstream-sink-ssh:", err)
		os.Exit(1)
	}
}
