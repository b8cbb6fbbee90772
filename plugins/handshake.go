// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
)

const (
	// protocolVersion is the version of plugins/proto/sink.proto.
	protocolVersion = 1

	// service is the name that go-plugin knows the service by.
	service = "sink"

	// pipesVariable tells a plugin which descriptors are pipes: the first is for data to it,
	// the others for data from it.
	pipesVariable = "VMSTREAM_SINK_PIPES"
	pipesValue    = "3,4,5,6,7"

	// outCount is how many of them carry data from the plugin: as many ranges of an
	// object as are read at a time.
	outCount = 4

	// maxMessageBytes bounds a message between the processes.
	maxMessageBytes = 2 << 20

	// dataBytes is how much data goes into one message.
	dataBytes = 512 << 10
)

// handshake tells a plugin that vmstream has started it, and not somebody from a
// shell. It is no secret.
var handshake = plugin.HandshakeConfig{
	MagicCookieKey:   "VMSTREAM_SINK_PLUGIN",
	MagicCookieValue: "5f2b8a1e-sink",
}

// handshakeVariables are what a plugin has been told in the environment.
var handshakeVariables = []string{
	handshake.MagicCookieKey, pipesVariable, clientCertificateVariable,
	"PLUGIN_MIN_PORT", "PLUGIN_MAX_PORT", "PLUGIN_PROTOCOL_VERSIONS", plugin.EnvUnixSocketDir,
}

// glue is what go-plugin wants to know of a version of the protocol.
type glue struct {
	plugin.NetRPCUnsupportedPlugin
	server sinkv1.SinkServer // in the plugin
}

// GRPCServer registers the service. It is called by go-plugin.
func (g *glue) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	if g.server == nil {
		return errors.New("nothing to serve")
	}
	sinkv1.RegisterSinkServer(s, g.server)
	return nil
}

// GRPCClient returns a client of the service. It is called by go-plugin.
func (g *glue) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return sinkv1.NewSinkClient(c), nil
}

// versions are those of the protocol that this program speaks.
func versions(server sinkv1.SinkServer) map[int]plugin.PluginSet {
	return map[int]plugin.PluginSet{protocolVersion: {service: &glue{server: server}}}
}
