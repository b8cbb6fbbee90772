// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package guestlab

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// TestSnapshotByHand does what a backup does, by hand: it takes an overlay for
// each disk of a guest at one moment, reads the disks below, and commits.
func TestSnapshotByHand(t *testing.T) {
	testenv.Long(t)
	for _, o := range []Options{{Format: "raw", Disks: 2}, {Format: "vmdk"}} {
		t.Run(o.Format, func(t *testing.T) {
			o.SizeBytes = 256 << 20
			g := Start(t, o)
			g.WaitRecord(t, 40)
			began := g.State(t)
			if err := began.Clean(began); err != nil {
				t.Fatal(err)
			}
			begin, min := time.Now(), g.LastDurable()
			var actions []any
			for i, node := range g.Nodes {
				actions = append(actions, map[string]any{"type": "blockdev-snapshot-sync", "data": map[string]any{
					"node-name": node, "snapshot-node-name": fmt.Sprintf("over%d", i), "format": "qcow2",
					"snapshot-file": filepath.Join(t.TempDir(), "overlay"),
				}})
			}
			must(t, g.Command("transaction", map[string]any{"actions": actions}, nil))
			at := Range{min, g.LastDurable() + 1}
			g.WaitMore(t, 20)
			n := CheckRestored(t, at, rawDisks(t, g)...)
			t.Logf("%d records on the disks below, %d to %d expected, %d in the guest", n, at.Min, at.Max, g.LastDurable())
			if err := g.State(t).Clean(began); err == nil || !strings.Contains(err.Error(), "over0") {
				t.Errorf("a machine on an overlay is clean: %v", err)
			}
			for i := range g.Nodes {
				commit(t, g, i)
			}
			if err := g.State(t).Clean(began); err != nil {
				t.Error(err)
			}
			g.Check(t)
			t.Log(g.StallSince(begin))
			g.Kill()
			CheckRestored(t, Range{g.LastDurable(), g.LastDurable() + 1}, rawDisks(t, g)...)
		})
	}
}

// commit commits a disk's overlay and waits until it is gone.
func commit(t *testing.T, g *Guest, i int) {
	t.Helper()
	id := map[string]any{"id": "commit"}
	must(t, g.Command("block-commit", map[string]any{
		"job-id": "commit", "device": fmt.Sprintf("over%d", i), "base-node": g.Nodes[i], "auto-dismiss": false,
	}, nil))
	completed := false
	for status := ""; status != "concluded"; {
		var jobs []struct{ Status, Error string }
		must(t, g.Command("query-jobs", nil, &jobs))
		if len(jobs) != 1 || jobs[0].Error != "" || t.Context().Err() != nil {
			t.Fatalf("jobs %+v", jobs)
		}
		if status = jobs[0].Status; status == "ready" && !completed {
			completed = true // it stays ready for a moment
			must(t, g.Command("job-complete", id, nil))
		}
	}
	must(t, g.Command("job-dismiss", id, nil))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
