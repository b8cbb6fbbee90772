// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package tape

import "os"

// locks: cartridges are not.
const locks = false

// lock does nothing here: drives are for Linux, and virtual ones for trying things.
func lock(*os.File) error { return nil }
