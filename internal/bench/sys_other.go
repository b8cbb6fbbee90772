// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "os"

// peakRSS is not known here.
func peakRSS(*os.ProcessState) int64 { return 0 }

// freeBytes is not known here.
func freeBytes(string) (int64, bool) { return 0, false }
