// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
)

// badStarts are programs that are no plugins, by the scheme that starts them.
var badStarts = map[string]func(){
	"dead":    func() { os.Exit(3) },
	"mute":    func() { select {} },
	"garbage": func() { fmt.Println("Hello, I am a plugin"); select {} },
	"flood": func() {
		for {
			_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), 1<<16))
		}
	},
	"netrpc":   func() { fmt.Println("1|1|unix|/nowhere|netrpc|"); select {} },
	"tcp":      func() { fmt.Println("1|1|tcp|127.0.0.1:1|grpc|"); select {} },
	"plain":    func() { fmt.Println("1|1|unix|/nowhere|grpc|"); select {} },
	"version0": func() { serveVersions(0) },
	"version2": func() { serveVersions(2) },
	"version12": func() {
		serveVersions(1, 2)
	},
	"orphan": func() { // a process that another one has been left with
		c := exec.Command("sleep", "1000")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		_ = c.Start()
		os.Exit(3)
	},
}

func serveVersions(all ...int) {
	s := newServer(badDriver{}, slog.New(slog.DiscardHandler), nil, nil)
	served := map[int]plugin.PluginSet{}
	for _, v := range all {
		served[v] = plugin.PluginSet{service: &glue{server: s}}
	}
	serveWire(served)
}

func serveWire(served map[int]plugin.PluginSet) {
	plugin.Serve(&plugin.ServeConfig{HandshakeConfig: handshake, VersionedPlugins: served, GRPCServer: newGRPCServer, Logger: quiet()})
}

// wireServer breaks the protocol, as the key that is asked for says.
type wireServer struct {
	*server
}

func serveBadWire() {
	in, out := inherited(true)
	s := &wireServer{newServer(badDriver{}, slog.New(slog.DiscardHandler), in, out)}
	serveWire(map[int]plugin.PluginSet{protocolVersion: {service: &glue{server: s}}})
}

func ready(pipe bool) *sinkv1.WriteResponse {
	return &sinkv1.WriteResponse{Step: &sinkv1.WriteResponse_Ready{Ready: &sinkv1.Ready{Pipe: pipe}}}
}

func (s *wireServer) Write(stream writeServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	how := string(m.GetCreate().GetKey())
	switch how {
	case "ready-twice":
		_ = stream.Send(ready(true))
		_ = stream.Send(ready(true))
		select {}
	case "answers-without-end":
		for stream.Send(ready(true)) == nil {
		}
	case "done-first":
		return stream.Send(&sinkv1.WriteResponse{Step: &sinkv1.WriteResponse_Done{Done: &sinkv1.Info{Key: []byte(how)}}})
	case "done-early":
		_ = stream.Send(ready(true))
		return stream.Send(&sinkv1.WriteResponse{Step: &sinkv1.WriteResponse_Done{Done: &sinkv1.Info{Key: []byte(how), SizeBytes: 1}}})
	case "ends-early":
		return stream.Send(ready(true))
	case "closes-pipe":
		_ = stream.Send(ready(true))
		_ = s.in.file.Close()
		select {}
	case "empty-answer":
		_ = stream.Send(&sinkv1.WriteResponse{})
		select {}
	case "long-answer":
		f := &sinkv1.Failure{Message: string(bytes.Repeat([]byte("x"), 3<<20))}
		_ = stream.Send(&sinkv1.WriteResponse{Step: &sinkv1.WriteResponse_Failure{Failure: f}})
		select {}
	}
	return nil
}

func (s *wireServer) Read(m *sinkv1.ReadRequest, stream readServer) error {
	key := m.GetKey()
	opened := func(pipe bool) {
		_ = stream.Send(&sinkv1.ReadResponse{Step: &sinkv1.ReadResponse_Opened{Opened: &sinkv1.Opened{
			Info: &sinkv1.Info{Key: key, SizeBytes: badBytes}, Pipe: pipe,
		}}})
	}
	end := &sinkv1.ReadResponse{Step: &sinkv1.ReadResponse_End{End: &sinkv1.End{Eof: true}}}
	switch string(key) {
	case "end-without-data":
		opened(true)
		return stream.Send(end)
	case "end-without-opened":
		return stream.Send(end)
	case "long-frame":
		opened(true)
		_, _ = s.out[0].file.Write([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3})
		time.Sleep(time.Hour)
	case "data-without-end":
		opened(false)
		for stream.Send(&sinkv1.ReadResponse{Step: &sinkv1.ReadResponse_Data{Data: make([]byte, dataBytes)}}) == nil {
		}
	case "ends-call":
		opened(false)
	case "opened-without-info":
		return stream.Send(&sinkv1.ReadResponse{Step: &sinkv1.ReadResponse_Opened{Opened: &sinkv1.Opened{}}})
	}
	return nil
}

func (s *wireServer) List(_ *sinkv1.ListRequest, stream grpc.ServerStreamingServer[sinkv1.ListResponse]) error {
	batch := make([]*sinkv1.Info, maxBatch+1)
	for i := range batch {
		batch[i] = &sinkv1.Info{Key: fmt.Appendf(nil, "%08d", i)}
	}
	return stream.Send(&sinkv1.ListResponse{Infos: batch})
}
