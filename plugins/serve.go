// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

// errShell says that somebody has started a plugin by hand.
var errShell = errors.New("this is a part of vmstream, which starts it by itself; see vmstream sink list")

// Serve is the main of a plugin: it offers the sinks of a driver to the host that
// has started the process, until the host is done or has gone. stdin must be that
// of the process. Its stdout is the host's, nothing else may be written there; lines
// on stderr end up in the host's log. Nothing may have been done before: files that
// the process has inherited are closed.
func Serve(d sinks.Driver, stdin io.Reader) error {
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		return errShell
	}
	in, out := inherited(os.Getenv(pipesVariable) == pipesValue)
	log := serveLog()
	s := newServer(d, log, in, out)
	s.stderr = os.Stderr
	ended := make(chan struct{})
	go func() { // it ends with the host's process, also if that was killed
		defer close(ended)
		_, _ = io.Copy(io.Discard, stdin)
	}()
	served := make(chan struct{})
	go func() {
		defer close(served)
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig: handshake, VersionedPlugins: versions(s), GRPCServer: newGRPCServer, Logger: quiet(),
		})
	}()
	select {
	case <-ended:
	case <-served:
	}
	return nil
}

func newGRPCServer(o []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(o, grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxMessageBytes))...)
}

// newServer returns the service. in and out are the pipes, nil without.
func newServer(d sinks.Driver, log *slog.Logger, in *os.File, out []*os.File) *server {
	s := &server{driver: d, log: log, readers: map[uint64]*openReader{}}
	if in != nil {
		s.in = &lane{file: in, reader: newFrameReader(in)}
		for _, f := range out {
			s.out = append(s.out, &lane{file: f, writer: &frameWriter{w: f}})
		}
	}
	return s
}

var _ sinkv1.SinkServer = (*server)(nil)
