// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package form says what words of a target may be.
package form

import "regexp"

// Form is what a word may be. Its length is apart: an expression that counts takes a
// while to compile, at every start of the program.
type Form struct {
	expression *regexp.Regexp
	most       int
}

// New returns a form of words of at most so many bytes.
func New(expression string, mostBytes int) *Form {
	return &Form{regexp.MustCompile(expression), mostBytes}
}

// MatchString reports if s is of the form.
func (f *Form) MatchString(s string) bool { return len(s) <= f.most && f.expression.MatchString(s) }
