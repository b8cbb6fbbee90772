// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package integrate

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

func goodSetup() Setup {
	return Setup{
		Name: "web01", Source: "/vms/web 01/web'01.vmx", Options: []string{"--pre", "echo $HOME 'x' \"y\" `z`"}, Program: "/usr/bin/vmstream",
		StateDir: "/var/lib/vmstream", Dir: "/etc/vmstream", Client: "web-fd", Storage: "File", Pool: "Full Pool", Messages: "Standard",
		RestoreTo: "/restored", Auth: "bsdtcp",
	}
}

// The reader hands everything to the program as it was given.
func TestReaderQuotes(t *testing.T) {
	sh := testenv.Tool(t, "sh")
	dir := t.TempDir()
	s := goodSetup()
	s.Program = filepath.Join(dir, "program")
	files, err := Bacula(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WriteFiles(dir, append(files, File{Name: "program", Mode: 0o755, Content: []byte("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")}), false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, env []string
		want      string
	}{
		{args: []string{"7", "Full", "web01.2026-11-26_10.36.47_04"}, want: "7|--job-level|Full|--job-name|web01.2026-11-26_10.36.47_04|--since-time||"},
		{args: []string{"8", "Incremental", "n", "2026-11-26", "10.36.49"}, want: "8|--job-level|Incremental|--job-name|n|--since-time|2026-11-26_10.36.49|"},
		{env: []string{"BareosJobId=9", "BareosJobLevel=I"}, want: "9|--job-level|I|--job-name||--since-time||"},
	} {
		cmd := exec.Command(sh, append([]string{filepath.Join(dir, "web01-reader")}, c.args...)...)
		cmd.Env = c.env
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		want := "bacula-backup|--state-dir|/var/lib/vmstream|--job|web01|--job-id|" + c.want + "--|" + strings.Join(s.Options, "|") + "|" + s.Source
		if got := strings.ReplaceAll(strings.TrimSuffix(string(out), "\n"), "\n", "|"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestSetupRefused(t *testing.T) {
	for name, change := range map[string]func(*Setup){
		"name":            func(s *Setup) { s.Name = "a b" },
		"name of nothing": func(s *Setup) { s.Name = "" },
		"colon":           func(s *Setup) { s.Dir = "/etc/a:b" },
		"blank":           func(s *Setup) { s.Program = "/opt/my programs/vmstream" },
		"relative":        func(s *Setup) { s.StateDir = "state" },
		"brace":           func(s *Setup) { s.Client = `x" }` },
		"no client":       func(s *Setup) { s.Client = "" },
		"line":            func(s *Setup) { s.Source = "/vms/a\nb" },
		"line in options": func(s *Setup) { s.Options = []string{"--name\n}"} },
		"schedule":        func(s *Setup) { s.Schedule = "\x00" },
		"dollar":          func(s *Setup) { s.RestoreTo = "/$(reboot)" },
	} {
		s := goodSetup()
		change(&s)
		if _, err := Bacula(s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s := goodSetup()
	s.Source, s.Options = "/vms/web01.vmx", nil
	if _, err := Amanda(s); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Setup){
		"blank in a property": func(s *Setup) { s.Options = []string{"--pre", "a b"} },
		"quote":               func(s *Setup) { s.Options = []string{`--name="x"`} },
		"nothing":             func(s *Setup) { s.Options = []string{""} },
		"blank in the VM":     func(s *Setup) { s.Source = "/vms/web 01.vmx" },
		"auth":                func(s *Setup) { s.Auth = `x"` },
	} {
		s := s
		change(&s)
		if _, err := Amanda(s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWriteFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	files := []File{{Name: "a", Mode: 0o644, Content: []byte("1")}, {Name: "b", Mode: 0o755, Content: []byte("2")}}
	if _, err := WriteFiles(dir, files[1:], false); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteFiles(dir, files, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("replaced: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("one of the files was written")
	}
	if paths, err := WriteFiles(dir, files, true); err != nil || len(paths) != 2 {
		t.Errorf("%v, %v", paths, err)
	}
}
