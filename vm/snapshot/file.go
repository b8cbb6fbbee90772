// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import "os"

// exists reports if there is something at path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
