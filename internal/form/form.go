// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package form says what words that people give may be.
package form

import (
	"regexp"
	"sync"
)

// Form is what a word may be. Its length is apart: an expression that counts takes long
// to compile.
type Form struct {
	expression func() *regexp.Regexp
	mostBytes  int
}

// New returns a form of words of at most so many bytes. The expression is compiled when
// it is first needed, not at every start of the program; there it panics if it is none.
func New(expression string, mostBytes int) *Form {
	return &Form{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) }), mostBytes}
}

// MatchString reports if s is of the form. It is safe for concurrent use.
func (f *Form) MatchString(s string) bool {
	return len(s) <= f.mostBytes && f.expression().MatchString(s)
}
