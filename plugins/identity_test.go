// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"crypto/tls"
	"io"
	"testing"
	"time"
)

// TestStrangers connects to a plugin without the host's certificate.
func TestStrangers(t *testing.T) {
	h := testHost(t)
	s, _ := openSink(t, h, "bad:is-good")
	address, err := s.p.client.Start() // it has started: this is where it listens
	if err != nil {
		t.Fatal(err)
	}
	another, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := h.who()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		certificates []tls.Certificate
		in           bool
	}{
		"nobody":        {},
		"another host":  {certificates: []tls.Certificate{another.certificate}},
		"its host":      {certificates: []tls.Certificate{ours.certificate}, in: true},
		"without a key": {certificates: []tls.Certificate{{Certificate: ours.certificate.Certificate, PrivateKey: another.certificate.PrivateKey}}},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial(address.Network(), address.String(), &tls.Config{
				Certificates: c.certificates, InsecureSkipVerify: true, NextProtos: []string{"h2"},
			})
			if err == nil {
				defer conn.Close()                              // only read
				_ = conn.SetDeadline(time.Now().Add(stuckTime)) // the test hangs if this fails
				_, err = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			}
			if err == nil {
				_, err = conn.Read(make([]byte, 1)) // its settings
			}
			if (err == nil) != c.in {
				t.Errorf("got %v", err)
			}
		})
	}
}
