// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

// Command vmstream-sink-networker is the sink of NetWorker as a program of its own.
package main

import (
	"fmt"
	"os"

	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks/networker"
)

func main() {
	if err := plugins.Serve(networker.Driver(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "vmstream-sink-networker:", err)
		os.Exit(1)
	}
}
