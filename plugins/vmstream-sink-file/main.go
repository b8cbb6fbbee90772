// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Command vmstream-sink-file is the sink of files as a program of its own.
package main

import (
	"fmt"
	"os"

	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks/file"
)

func main() {
	if err := plugins.Serve(file.Driver(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "vmstream-sink-file:", err)
		os.Exit(1)
	}
}
