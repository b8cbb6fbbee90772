// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Command vmstream-sink-tape is the sink of tapes as a program of its own.
package main

import (
	"fmt"
	"os"

	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks/tape"
)

func main() {
	if err := plugins.Serve(tape.Driver(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "vmstream-sink-tape:", err)
		os.Exit(1)
	}
}
