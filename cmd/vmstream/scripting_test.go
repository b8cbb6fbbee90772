// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm/snapshot"
)

var (
	fieldsMark = regexp.MustCompile(`<!-- fields: ([a-z]+) -->`)
	fieldName  = regexp.MustCompile("`([a-z_]+)`")
)

// documentedFields returns the fields of every table of docs/scripting.md that
// is marked, by its mark. Those that may be absent are true.
func documentedFields(t *testing.T) map[string]map[string]bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", "scripting.md"))
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]map[string]bool{}
	table := ""
	for line := range strings.Lines(string(b)) {
		if m := fieldsMark.FindStringSubmatch(line); m != nil {
			table = m[1]
			tables[table] = map[string]bool{}
		}
		cells := strings.Split(line, "|")
		if table == "" || len(cells) < 4 {
			if strings.TrimSpace(line) != "" && !fieldsMark.MatchString(line) {
				table = ""
			}
			continue
		}
		for _, m := range fieldName.FindAllStringSubmatch(cells[1], -1) {
			tables[table][m[1]] = strings.Contains(cells[2], "left out") || strings.Contains(cells[2], "only in")
		}
	}
	return tables
}

// TestScriptingDocument runs commands with --json and compares the fields of
// what they print with those that docs/scripting.md has.
func TestScriptingDocument(t *testing.T) {
	documented := documentedFields(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := makeDisk(file("d.img"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("vm.vmx"), []byte("displayName = \"vm\"\nscsi0:0.fileName = \"gone.vmdk\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := snapshot.OpenJournal(file("state"))
	if err == nil {
		_, err = j.Begin(snapshot.Record{Provider: "redo"})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		table  string
		stdout bool // a result; otherwise an event
		kind   string
		args   []string
	}{
		{"backup", false, "summary", []string{"backup", file("d.img")}},
		{"verify", false, "summary", []string{"verify", "--from", file("stream")}},
		{"restore", false, "summary", []string{"restore", "--from", file("stream"), "--to", file("r.img")}},
		{"convert", false, "summary", []string{"disk", "convert", file("d.img"), file("d.vmdk")}},
		{"hook", false, "hook", []string{"backup", file("d.img"), "--pre", "echo x"}},
		{"snapshot", true, "", []string{"snapshot", "list", "--state-dir", file("state")}},
		{"error", false, "error", []string{"verify", "--from", file("none")}},
		{"warning", false, "warning", []string{"list", dir}},
		{"inspect", true, "", []string{"inspect", "--from", file("stream")}},
		{"list", true, "", []string{"list", dir}},
		{"estimate", true, "", []string{"estimate", file("d.img")}},
		{"info", true, "", []string{"disk", "info", file("d.vmdk")}},
		{"map", true, "", []string{"disk", "map", file("d.vmdk")}},
		{"geometry", true, "", []string{"disk", "geometry", file("d.vmdk")}},
		{"extend", true, "", []string{"disk", "extend", file("d.vmdk"), "+1M"}},
		{"vmsnap", false, "summary", []string{"vmsnap", "--state-dir", file("state"), "-c", esx2Machine(t, 1<<20), "-d", file("backup")}},
		{"vmres", false, "summary", []string{"vmres", "-C", file("restored"), file("backup/web01")}},
		{"integrate", true, "", []string{"integrate", "amanda", "--dir", file("amanda"), file("d.img")}},
		{"sinks", true, "", []string{"sink", "list"}},
		{"sinks", true, "", []string{"sink", "describe", "s3"}},
		{"sinkcheck", true, "", []string{"sink", "verify", "file:" + dir + "/"}},
		{"sinkobject", true, "", []string{"sink", "ls", "file:" + file("stream")}},
		{"log", false, "log", []string{"backup", "-v", "--to", "exec:echo said >&2; cat >" + os.DevNull, file("d.img")}},
		{"version", true, "", []string{"version"}},
	} {
		t.Run(c.table, func(t *testing.T) {
			cmd := vmstream(t, append(c.args, "--json")...)
			out := new(bytes.Buffer)
			cmd.Stdout = out
			exitCode(t, cmd.Run())
			if c.table == "backup" {
				if err := os.WriteFile(file("stream"), out.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if !c.stdout {
				out = cmd.Stderr.(*bytes.Buffer)
			}
			compareFields(t, out.String(), c.kind, documented[c.table])
		})
	}
	if len(documented["progress"]) != 8 {
		t.Errorf("progress: %v", documented["progress"])
	}
}

// TestScriptingDocumentVMFS is the same for what reads volumes.
func TestScriptingDocumentVMFS(t *testing.T) {
	documented := documentedFields(t)
	volume := filepath.Join(t.TempDir(), "volume.img")
	unpackImage(t, testenv.Corpus(t, "vmfs/synthetic/a-v5-plain.img.zst"), volume)
	for table, args := range map[string][]string{
		"vmfsinfo":    {"info", volume},
		"vmfsentry":   {"ls", "-R", volume},
		"vmfsstat":    {"stat", volume + "!/locked/exclusive.log"},
		"vmfscheck":   {"check", volume},
		"vmfsrecover": {"recover", "--dry-run", "--drop-journals", volume},
		"vmfsmap":     {"map", volume + "!/web01/web01-flat.vmdk"},
	} {
		if table == "vmfsstat" {
			table = "vmfsentry"
		}
		cmd := vmstream(t, append([]string{"vmfs", "--json"}, args...)...)
		out := new(bytes.Buffer)
		cmd.Stdout = out
		exitCode(t, cmd.Run())
		compareFields(t, out.String(), "", documented[table])
	}
}

func compareFields(t *testing.T, out, kind string, want map[string]bool) {
	t.Helper()
	found := false
	for line := range strings.Lines(out) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if kind != "" && o["type"] != kind {
			continue
		}
		found = true
		for name := range o {
			if _, ok := want[name]; !ok {
				t.Errorf("%s is not in docs/scripting.md", name)
			}
		}
		for name, optional := range want {
			if _, ok := o[name]; !ok && !optional {
				t.Errorf("%s is in docs/scripting.md and not in %s", name, line)
			}
		}
	}
	if !found {
		t.Errorf("nothing of type %q in %q", kind, out)
	}
}
