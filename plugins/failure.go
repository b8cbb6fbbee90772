// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

// ErrPlugin is found in errors of the process of a sink, and not of the sink in it:
// it may not be started, does not start, has gone, or answers what cannot be.
var ErrPlugin = errors.New("trouble with the process of a sink")

// fault is an error that is ErrPlugin.
type fault string

func (f fault) Error() string        { return string(f) }
func (f fault) Is(target error) bool { return target == ErrPlugin }

// What is wrong with a process.
const (
	errGone     = fault("its process has gone")
	errNoStart  = fault("does not start as a plugin does")
	errNoAnswer = fault("no answer")
	errAnswer   = fault("an answer that cannot be")
	errFrame    = fault("the pipe has no frame where one begins")

	// ErrUntrustedPlugin says that an executable was not started because somebody else
	// may have put it there, or because it is not the one that was asked for.
	ErrUntrustedPlugin = fault("not to be trusted")
)

// maxTextBytes bounds texts that are for people.
const maxTextBytes = 4 << 10

// maxKinds bounds the kinds of a failure; there are not as many.
const maxKinds = 16

// kinds pairs the kinds of errors with what stands for them between processes.
var kinds = []struct {
	kind sinkv1.Kind
	err  error
}{
	{sinkv1.Kind_KIND_EXISTS, sinks.ErrExists},
	{sinkv1.Kind_KIND_NOT_EXIST, sinks.ErrNotExist},
	{sinkv1.Kind_KIND_UNSUPPORTED, sinks.ErrUnsupported},
	{sinkv1.Kind_KIND_TRANSIENT, sinks.ErrTransient},
	{sinkv1.Kind_KIND_UNKNOWN, sinks.ErrUnknown},
	{sinkv1.Kind_KIND_SHORT, sinks.ErrShort},
	{sinkv1.Kind_KIND_TARGET, sinks.ErrTarget},
}

// failure is an error for the other side; nil if there is none.
func failure(err error) *sinkv1.Failure {
	if err == nil {
		return nil
	}
	f := &sinkv1.Failure{Message: plain(err.Error())}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			f.Kinds = append(f.Kinds, k.kind)
		}
	}
	return f
}

// remoteError is an error of the other side.
type remoteError struct {
	message string
	kinds   []error
}

func (e *remoteError) Error() string   { return e.message }
func (e *remoteError) Unwrap() []error { return e.kinds }

// failed is the error that a failure stands for; nil if there is none.
func failed(f *sinkv1.Failure) error {
	if f == nil {
		return nil
	}
	e := &remoteError{message: plain(f.GetMessage())}
	for _, got := range f.GetKinds()[:min(len(f.GetKinds()), maxKinds)] {
		for _, k := range kinds {
			if k.kind == got {
				e.kinds = append(e.kinds, k.err)
			}
		}
	}
	if e.message == "" {
		e.message = "it failed and does not say why"
	}
	return e
}

// plain is a text of bounded length in one line, without what moves a terminal's
// cursor.
func plain(s string) string {
	if len(s) > maxTextBytes {
		s = s[:maxTextBytes] + "…"
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r) || r == utf8.RuneError:
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
