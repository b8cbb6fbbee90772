// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Command vmstream-sink-s3 is the sink of objects in S3 as a program of its own.
package main

import (
	"fmt"
	"os"

	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks/s3"
)

func main() {
	if err := plugins.Serve(s3.Driver(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "vmstream-sink-s3:", err)
		os.Exit(1)
	}
}
