// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vmdk"
)

// run runs a command line and returns its exit code and what it printed.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	return code, out.String(), errs.String()
}

// ok runs a command line that has to succeed.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := run(t, args...)
	if code != cli.ExitDone {
		t.Fatalf("vmstream %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// fails runs a command line that has to end with a code and a message.
func fails(t *testing.T, code int, message string, args ...string) {
	t.Helper()
	got, out, errs := run(t, args...)
	if got != code || !strings.Contains(errs, message) || out != "" {
		t.Errorf("vmstream %s: exit code %d, %s%s; expected %d and %q", strings.Join(args, " "), got, out, errs, code, message)
	}
}

// machine makes a VM with one disk whose name is written in some way.
func machine(t *testing.T, dir, lines string) string {
	t.Helper()
	w, err := vmdk.Create(vmdk.CreateSpec{Format: vmdk.FormatVMFS, Dir: dir, Name: "web01.vmdk", SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return configure(t, dir, "web01.vmx", lines)
}

func configure(t *testing.T, dir, name, lines string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("displayName = \"web01\"\nscsi0.present = \"TRUE\"\nscsi0:0.present = \"TRUE\"\n"+lines), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func configured(t *testing.T, vmx, key string) string {
	t.Helper()
	b, err := os.ReadFile(vmx)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(regexp.QuoteMeta(key) + ` = "([^"]*)"`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("%s has no %s: %s", vmx, key, b)
	}
	return string(m[1])
}

// TestRedoConfiguration follows what a configuration names through additions,
// a commit and a discard.
func TestRedoConfiguration(t *testing.T) {
	for _, prefix := range []string{"", "./", "DIR/"} {
		t.Run(prefix, func(t *testing.T) {
			dir := t.TempDir()
			prefix := strings.ReplaceAll(prefix, "DIR", dir)
			vmx := machine(t, dir, "scsi0:0.fileName = \""+prefix+"web01.vmdk\"\n")
			before, err := os.ReadFile(vmx)
			if err != nil {
				t.Fatal(err)
			}
			names := func(want string) {
				t.Helper()
				if got := configured(t, vmx, "scsi0:0.fileName"); got != prefix+want {
					t.Fatalf("the configuration names %s, expected %s", got, prefix+want)
				}
			}
			ok(t, "redo", "add", vmx)
			names("web01-000001.vmdk")
			ok(t, "redo", "add", vmx, "--disk", "scsi0:0")
			names("web01-000002.vmdk")
			if out := ok(t, "redo", "commit", "--dry-run", vmx); !strings.Contains(out, "would commit") {
				t.Errorf("dry run: %s", out)
			}
			names("web01-000002.vmdk")
			ok(t, "redo", "commit", "--level", "1", vmx)
			names("web01-000002.vmdk")
			ok(t, "redo", "add", vmx) // the number is free again
			names("web01-000001.vmdk")
			ok(t, "redo", "discard", vmx)
			names("web01-000002.vmdk")
			ok(t, "redo", "commit", vmx)
			names("web01.vmdk")
			if after, err := os.ReadFile(vmx); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the configuration is not what it was: %s", after)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 3 {
				t.Errorf("left over: %v %v", entries, err)
			}
		})
	}
}

// TestRedoESX2Configuration is about configurations of ESX 2.x, in which only
// the note of the current redo log changes, if there is one.
func TestRedoESX2Configuration(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "web01.vmdk"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	vmx := configure(t, dir, "web01.cfg", "scsi0.virtualDev = \"vmxbuslogic\"\nscsi0:0.name = \"vmhba0:0:0:1:web01.vmdk\"\nscsi0:0.mode = \"undoable\"\nscsi0:0.redo = \"\"\n")
	note := func(want string) {
		t.Helper()
		if got := configured(t, vmx, "scsi0:0.redo"); got != want {
			t.Fatalf("the configuration notes %q, expected %q", got, want)
		}
	}
	ok(t, "redo", "add", vmx)
	note("") // nothing was noted
	b, err := os.ReadFile(vmx)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(`redo = ""`), []byte(`redo = "web01.vmdk.REDO"`), 1)
	if err := os.WriteFile(vmx, b, 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, "redo", "add", vmx)
	note("web01.vmdk.REDO.REDO")
	fails(t, cli.ExitSource, "2 redo logs already", "redo", "add", vmx)
	ok(t, "redo", "commit", "--level", "1", vmx)
	note("web01.vmdk.REDO")
	if out := ok(t, "redo", "list", vmx); !strings.Contains(out, "web01.vmdk.REDO") || strings.Contains(out, "REDO.REDO") {
		t.Errorf("list: %s", out)
	}
	ok(t, "redo", "commit", vmx)
	note("")
	if got := configured(t, vmx, "scsi0:0.name"); got != "vmhba0:0:0:1:web01.vmdk" {
		t.Errorf("the disk is %s", got)
	}
}

func TestRedoRefusals(t *testing.T) {
	dir := t.TempDir()
	vmx := machine(t, dir, "scsi0:0.fileName = \"web01.vmdk\"\n")
	disk := filepath.Join(dir, "web01.vmdk")
	fails(t, cli.ExitUsage, "--disk goes with a VMX", "redo", "add", disk, "--disk", "scsi0:0")
	fails(t, cli.ExitUsage, "counted from the base", "redo", "commit", disk, "--level", "-1")
	fails(t, cli.ExitUsage, "accepts 1 arg", "redo", "list")
	fails(t, cli.ExitUsage, "--source-format", "redo", "list", disk, "--source-format", "qcow2")
	fails(t, cli.ExitSource, "no disk scsi1:0", "redo", "add", vmx, "--disk", "scsi1:0")
	fails(t, cli.ExitSource, "no redo log to commit", "redo", "commit", vmx)
	fails(t, cli.ExitSource, "no redo log to discard", "redo", "discard", vmx)
	fails(t, cli.ExitSource, "no such file", "redo", "list", filepath.Join(dir, "none.vmdk"))
	t.Setenv("VMSTREAM_LEVEL", "3") // of codecs
	ok(t, "redo", "add", vmx)
	fails(t, cli.ExitSource, "web01.vmx names it", "redo", "discard", filepath.Join(dir, "web01-000001.vmdk"))
	fails(t, cli.ExitSource, "there is no level 2", "redo", "commit", vmx, "--level", "2")
	if err := os.Mkdir(filepath.Join(dir, "web01.vmx.lck"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "web01.vmx.lck", "M1.lck"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, cli.ExitSource, "seems to be running", "redo", "commit", vmx)
	ok(t, "redo", "list", vmx)
	ok(t, "redo", "commit", vmx, "--allow-in-use")
	if err := os.RemoveAll(filepath.Join(dir, "web01.vmx.lck")); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"independent-persistent", "independent-nonpersistent", "nonpersistent"} {
		configure(t, dir, "web01.vmx", "scsi0:0.fileName = \"web01.vmdk\"\nscsi0:0.mode = \""+mode+"\"\n")
		fails(t, cli.ExitSource, "the disk is "+mode, "redo", "add", vmx)
	}
	configure(t, dir, "web01.vmx", "scsi0:0.fileName = \"web01.vmdk\"\nscsi0:0.shared = \"multi-writer\"\n")
	fails(t, cli.ExitSource, "shared with other VMs", "redo", "add", vmx)
	configure(t, dir, "web01.vmx", "scsi0:0.fileName = \"web01.vmdk\"\nscsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"web01-flat.vmdk\"\n")
	fails(t, cli.ExitUsage, "choose one with --disk: scsi0:0, scsi0:1", "redo", "add", vmx)
}

var (
	redoMark  = regexp.MustCompile(`<!-- fields: (redo[a-z]*) -->`)
	redoField = regexp.MustCompile("`([a-z0-9_]+)`")
)

// TestRedoScripting compares what is printed with --json with the tables of
// docs/scripting.md.
func TestRedoScripting(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", "scripting.md"))
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][]string{}
	table := ""
	for line := range strings.Lines(string(b)) {
		if m := redoMark.FindStringSubmatch(line); m != nil {
			table = m[1]
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			if strings.TrimSpace(line) != "" {
				table = ""
			}
			continue
		}
		if table != "" {
			for _, m := range redoField.FindAllStringSubmatch(cells[1], -1) {
				tables[table] = append(tables[table], m[1])
			}
		}
	}
	dir := t.TempDir()
	vmx := machine(t, dir, "scsi0:0.fileName = \"web01.vmdk\"\n")
	seen := map[string][]string{}
	look := func(table, line string) {
		t.Helper()
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for name := range o {
			if !slices.Contains(tables[table], name) {
				t.Errorf("%s is not in the table %s of docs/scripting.md", name, table)
			}
			seen[table] = append(seen[table], name)
		}
		levels, _ := o["levels"].([]any)
		for _, l := range levels {
			for name := range l.(map[string]any) {
				if !slices.Contains(tables["redolevel"], name) {
					t.Errorf("%s is not in the table redolevel of docs/scripting.md", name)
				}
				seen["redolevel"] = append(seen["redolevel"], name)
			}
		}
	}
	look("redo", ok(t, "redo", "add", "--json", vmx))
	look("redolist", ok(t, "redo", "list", "--json", vmx))
	look("redo", ok(t, "redo", "commit", "--json", vmx))
	look("redo", ok(t, "redo", "add", "--json", vmx))
	look("redo", ok(t, "redo", "discard", "--json", vmx))
	for table, names := range tables {
		for _, name := range names {
			if !slices.Contains(seen[table], name) && !slices.Contains([]string{"branches", "pending"}, name) {
				t.Errorf("%s is in the table %s of docs/scripting.md and is never printed", name, table)
			}
		}
	}
	if len(tables) != 3 {
		t.Errorf("docs/scripting.md has %d tables about redo", len(tables))
	}
}
