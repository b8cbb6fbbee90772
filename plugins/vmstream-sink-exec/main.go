// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Command vmstream-sink-exec is the sink of commands as a program of its own.
package main

import (
	"fmt"
	"os"

	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks/exec"
)

func main() {
	if err := plugins.Serve(exec.Driver(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "vmstream-sink-exec:", err)
		os.Exit(1)
	}
}
