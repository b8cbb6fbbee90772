// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package guestlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// Command runs a QMP command on the test's monitor, over a connection of its
// own. The reply is unmarshalled into result unless that is nil. It shares no
// code with the client that is tested.
func (g *Guest) Command(name string, args, result any) error {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.Dial("unix", g.QMPTest) //nolint:noctx // bounded by the deadline
	if err != nil {
		return err
	}
	defer conn.Close() // nothing is under way
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	replies := json.NewDecoder(conn)
	for _, c := range []struct {
		name         string
		args, result any
	}{{"qmp_capabilities", nil, nil}, {name, args, result}} {
		if err := exchange(conn, replies, c.name, c.args, c.result); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func exchange(w io.Writer, replies *json.Decoder, name string, args, result any) error {
	request := map[string]any{"execute": name}
	if args != nil {
		request["arguments"] = args
	}
	if err := json.NewEncoder(w).Encode(request); err != nil {
		return err
	}
	for {
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := replies.Decode(&reply); err != nil {
			return err
		}
		switch {
		case reply.Error != nil:
			return errors.New(reply.Error.Desc)
		case reply.Return != nil && result != nil:
			return json.Unmarshal(reply.Return, result)
		case reply.Return != nil:
			return nil
		}
		// A greeting or an event.
	}
}

// State is what a QEMU has of what backups use.
type State struct {
	Nodes   []string // block nodes by name, sorted; those without one are not listed
	Devices []string // DEVICE=NODE, in the order of the guest's disks
	Jobs    []string // ids
	Exports []string // ids
	Bitmaps []string // NODE/NAME, sorted
}

// Clean returns an error with what is there beside what the guest began with.
// Bitmaps may stay: the next increment needs them.
func (s State) Clean(begin State) error {
	var found []string
	for _, c := range []struct {
		what        string
		have, began []string
	}{{"nodes", s.Nodes, begin.Nodes}, {"devices", s.Devices, begin.Devices}, {"jobs", s.Jobs, nil}, {"exports", s.Exports, nil}} {
		if !slices.Equal(c.have, c.began) {
			found = append(found, fmt.Sprintf("%s %q instead of %q", c.what, c.have, c.began))
		}
	}
	if len(found) > 0 {
		return errors.New(strings.Join(found, "; "))
	}
	return nil
}

// State asks QEMU for its state.
func (g *Guest) State(tb testing.TB) State {
	tb.Helper()
	var nodes []struct {
		Name    string `json:"node-name"`
		Bitmaps []struct {
			Name string `json:"name"`
		} `json:"dirty-bitmaps"`
	}
	var devices []struct {
		QDev     string `json:"qdev"`
		Inserted struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	var jobs, exports []struct {
		ID string `json:"id"`
	}
	for name, result := range map[string]any{
		"query-named-block-nodes": &nodes, "query-block": &devices, "query-jobs": &jobs, "query-block-exports": &exports,
	} {
		var args any
		if name == "query-named-block-nodes" {
			args = map[string]any{"flat": true}
		}
		if err := g.Command(name, args, result); err != nil {
			tb.Fatal(err)
		}
	}
	var s State
	for _, n := range nodes {
		// QEMU makes up names that begin with #, new ones each time.
		if !strings.HasPrefix(n.Name, "#") {
			s.Nodes = append(s.Nodes, n.Name)
		} else {
			s.Nodes = append(s.Nodes, "#")
		}
		for _, b := range n.Bitmaps {
			s.Bitmaps = append(s.Bitmaps, n.Name+"/"+b.Name)
		}
	}
	for _, d := range devices {
		s.Devices = append(s.Devices, d.QDev+"="+d.Inserted.Node)
	}
	for _, j := range jobs {
		s.Jobs = append(s.Jobs, j.ID)
	}
	for _, e := range exports {
		s.Exports = append(s.Exports, e.ID)
	}
	slices.Sort(s.Nodes)
	slices.Sort(s.Bitmaps)
	return s
}
