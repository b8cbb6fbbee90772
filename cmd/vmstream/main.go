// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Vmstream streams virtual machines to and from backup software.
package main

import (
	"context"
	"os"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/command"
)

func main() {
	if code, is := command.ServePlugin(os.Args, os.Stdin, os.Stderr); is {
		os.Exit(code)
	}
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0] // where there is no /proc
	}
	ctx, stop := cli.WithSignals(context.Background(), os.Exit)
	code := command.Run(ctx, command.Args(os.Args), command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Program: program})
	stop()
	os.Exit(code)
}
