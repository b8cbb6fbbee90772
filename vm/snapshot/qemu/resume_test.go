// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/vm/snapshot"
)

// TestReapResumes has a guest that was stopped for want of space when the run that
// would have given the snapshot up was gone. The QEMU is one that has nothing left.
func TestReapResumes(t *testing.T) {
	for stopped, want := range map[string]string{"io-error": "cont", "paused": "", "running": ""} {
		path := filepath.Join(t.TempDir(), "qmp")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		said := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			said <- bareQEMU(conn, stopped)
		}()
		j, err := snapshot.OpenJournal(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		e, err := j.Begin(snapshot.Record{Provider: ProviderName})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Save(phaseTaken, record{Socket: path, Mode: Fleece, Marker: nodePrefix + "m"}); err != nil {
			t.Fatal(err)
		}
		_ = e.Close()
		p, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := snapshot.Reap(t.Context(), j, e.Record().ID, []snapshot.Provider{p}, snapshot.Voice{}); err != nil {
			t.Fatal(err)
		}
		if got := <-said; got != want {
			t.Errorf("%s: it was told %q, want %q", stopped, got, want)
		}
	}
}

// bareQEMU answers as a QEMU without nodes, jobs and exports, and returns the
// commands that change something.
func bareQEMU(conn net.Conn, status string) string {
	defer conn.Close()
	_, _ = io.WriteString(conn, `{"QMP": {"version": {"qemu": {"major": 9, "minor": 0, "micro": 0}}}}`+"\n")
	var changes []string
	for d := json.NewDecoder(conn); ; {
		var c struct {
			Execute string
			ID      int
		}
		if d.Decode(&c) != nil {
			return strings.Join(changes, " ")
		}
		answer := "[]"
		switch {
		case c.Execute == "query-status":
			answer = fmt.Sprintf(`{"status": %q}`, status)
		case c.Execute == "qmp_capabilities":
			answer = "{}"
		case !strings.HasPrefix(c.Execute, "query-"):
			changes, answer, status = append(changes, c.Execute), "{}", "running"
		}
		_, _ = fmt.Fprintf(conn, `{"return": %s, "id": %d}`+"\n", answer, c.ID)
	}
}
