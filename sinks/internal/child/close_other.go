// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package child

// CloseStdin gives the program the end of its input. What the program has not read
// is not known here.
func (p *Process) CloseStdin() (unread func() (bytes int64, err error), err error) {
	return func() (int64, error) { return 0, nil }, p.Stdin.Close()
}
