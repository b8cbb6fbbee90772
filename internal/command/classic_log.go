// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"io"

	"github.com/vmstream/vmstream/internal/cli"
)

// classicLog is where a classic tool tells what it does: lines on stdout, as
// scripts expect them, and the system log.
type classicLog struct {
	a      *app
	syslog io.WriteCloser // nil without -g, and where there is none
	warned map[string]bool
	outErr error // of stdout: the work goes on
}

// newLog begins the log of a run.
func (f *classicFlags) newLog(a *app, name string) *classicLog {
	l := &classicLog{a: a, warned: map[string]bool{}}
	if !f.debug {
		return l
	}
	a.console.Verbose = true
	var err error
	if l.syslog, err = openSyslog(name); err != nil {
		l.syslog = nil
		l.detail("no system log: %v", err)
	}
	return l
}

func (l *classicLog) close() {
	if l.syslog != nil {
		_ = l.syslog.Close() // what it was told it has, or nobody can help it
	}
}

// say prints a line on stdout, unless -q or --json was given.
func (l *classicLog) say(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	l.note(s)
	if l.a.console.Quiet || l.a.console.JSON || l.outErr != nil {
		return
	}
	_, l.outErr = io.WriteString(l.a.Out, cli.Clean(s)+"\n")
}

// detail tells what only -v and -g show.
func (l *classicLog) detail(format string, args ...any) {
	l.note(fmt.Sprintf(format, args...))
	l.a.console.Detail(format, args...)
}

// warn tells of trouble, once: a VM is looked at more than once in a run.
func (l *classicLog) warn(s string) {
	if l.warned[s] {
		return
	}
	l.warned[s] = true
	l.note("warning: " + s)
	l.a.console.Warn(s)
}

func (l *classicLog) note(s string) {
	if l.syslog != nil {
		_, _ = io.WriteString(l.syslog, cli.Clean(s)) // a log that is full does not stop a backup
	}
}

// fail notes how a run ended and returns err.
func (l *classicLog) fail(err error) error {
	if err != nil {
		l.note("failed: " + err.Error())
		return err
	}
	if l.outErr != nil {
		l.a.console.Warn("stdout: " + l.outErr.Error())
	}
	return l.a.done()
}
