// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !windows && !plan9

package command

import (
	"io"
	"log/syslog"
)

// syslogSocket is the socket of the system log, "" for where it usually is.
var syslogSocket string

// openSyslog returns the system log for lines of this program.
func openSyslog(tag string) (io.WriteCloser, error) {
	network := ""
	if syslogSocket != "" {
		network = "unixgram"
	}
	return syslog.Dial(network, syslogSocket, syslog.LOG_DAEMON|syslog.LOG_DEBUG, tag)
}
