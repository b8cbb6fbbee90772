// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

// countObjects returns the number of JSON objects that b begins. Decoding takes
// many times the memory of the text: «{}» is three bytes of a list and may
// become a struct of hundreds.
func countObjects(b []byte) int {
	n, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch {
		case quoted && b[i] == '\\':
			i++ // whatever is escaped does not end the string
		case b[i] == '"':
			quoted = !quoted
		case b[i] == '{' && !quoted:
			n++
		}
	}
	return n
}
