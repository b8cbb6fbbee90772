// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package command

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/manpage"
	"github.com/vmstream/vmstream/internal/testenv"
)

// sshStandIn puts a script in the place of ssh.
func sshStandIn(t *testing.T, script string) {
	t.Helper()
	testenv.Tool(t, "tar")
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

// onThisHost is an ssh whose other host is this one.
const onThisHost = `exec /bin/sh -c "$2"`

// snap runs vmsnap on the VM.
func (v *classicVM) snap(args ...string) (code int, stdout, stderr string) {
	v.t.Helper()
	return run(v.t, append([]string{"vmsnap", "--state-dir", v.state, "-c", v.config}, args...)...)
}

// TestVmsnapFails has vmsnap fail: nothing is left, of the backup and of redo
// logs, and an earlier backup stays.
func TestVmsnapFails(t *testing.T) {
	for name, c := range map[string]struct {
		code   int
		says   string
		break_ func(v *classicVM)
		args   []string
	}{
		"in use": {cli.ExitSource, "seems to be running", func(v *classicVM) {
			v.must(os.Mkdir(v.path("web01.vmx.lck"), 0o700))
			v.must(os.WriteFile(v.path("web01.vmx.lck/M1.lck"), nil, 0o600))
		}, nil},
		"open for writing": {cli.ExitSource, "has it open for writing", func(v *classicVM) {
			f, err := os.OpenFile(v.path("web01-flat.vmdk"), os.O_RDWR, 0)
			v.must(err)
			v.t.Cleanup(func() { _ = f.Close() })
		}, nil},
		"no disk":      {cli.ExitSource, "does not exist", func(v *classicVM) { v.must(os.Remove(v.path("web01.vmdk"))) }, nil},
		"no extent":    {cli.ExitSource, "web01-flat.vmdk", func(v *classicVM) { v.must(os.Remove(v.path("web01-flat.vmdk"))) }, nil},
		"short disk":   {cli.ExitSource, "web01-flat.vmdk", func(v *classicVM) { v.must(os.Truncate(v.path("web01-flat.vmdk"), 4096)) }, nil},
		"no state":     {cli.ExitSource, "with --state-dir", func(*classicVM) {}, []string{"--state-dir", "/dev/null/x"}},
		"no local dir": {cli.ExitFailed, "not a directory", func(*classicVM) {}, []string{"-d", "/dev/null/x"}},
		"none persistent": {cli.ExitSource, "no persistent disk", func(v *classicVM) {
			configure(v.t, v.dir, "web01.vmx", "scsi0:0.fileName = \"web01.vmdk\"\nscsi0:0.mode = \"undoable\"\n")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			v := newClassicVM(t, false)
			backup := t.TempDir()
			if code, _, errs := v.snap("-d", backup); code != 0 {
				t.Fatalf("exit code %d: %s", code, errs)
			}
			earlier := contents(t, backup)
			c.break_(v)
			before := contents(t, v.dir)
			code, _, errs := v.snap(append([]string{"-d", backup}, c.args...)...)
			if code != c.code || !strings.Contains(errs, c.says) {
				t.Errorf("exit code %d: %s; expected %d and %q", code, errs, c.code, c.says)
			}
			v.unchanged(before)
			if now := contents(t, backup); !slices.Equal(listed(now), listed(earlier)) {
				t.Errorf("the earlier backup was %q and is %q", listed(earlier), listed(now))
			}
			if entries, err := os.ReadDir(backup); err != nil || len(entries) != 1 {
				t.Errorf("left: %v, %v", entries, err)
			}
		})
	}
}

// TestVmsnapReplaces runs vmsnap twice, and where something else is.
func TestVmsnapReplaces(t *testing.T) {
	v := newClassicVM(t, true)
	before := contents(t, v.dir)
	backup := t.TempDir()
	dir := filepath.Join(backup, "web01")
	for _, args := range [][]string{{"-l"}, nil, {"-l"}} {
		if code, _, errs := v.snap(append(args, "-d", backup)...); code != 0 {
			t.Fatalf("exit code %d: %s", code, errs)
		}
		lookAtBackup(t, v, dir, true, args != nil)
	}
	code, _, errs := v.snap("-d", filepath.Dir(v.dir))
	if code != cli.ExitUsage || !strings.Contains(errs, "directory of the VM itself") {
		t.Errorf("over the VM: exit code %d: %s", code, errs)
	}
	// One that has the VM's directory in it, called as the VM is.
	above := filepath.Join(t.TempDir(), "web01")
	v.must(os.MkdirAll(above, 0o700))
	v.must(os.Rename(v.dir, filepath.Join(above, "vm")))
	t.Cleanup(func() { _ = os.RemoveAll(above) })
	v.config = filepath.Join(above, "vm", filepath.Base(v.config))
	code, _, errs = v.snap("-d", filepath.Dir(above), "--force")
	if _, err := os.Stat(v.config); code != cli.ExitUsage || !strings.Contains(errs, "one above it") || err != nil {
		t.Fatalf("over what has the VM in it: exit code %d, %v: %s", code, err, errs)
	}
	v.must(os.Rename(filepath.Join(above, "vm"), v.dir))
	v.config = v.path(filepath.Base(v.config))
	v.must(os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("x"), 0o600))
	code, _, errs = v.snap("-d", backup)
	if code != cli.ExitFailed || !strings.Contains(errs, "thesis.txt in it is not of a backup") {
		t.Errorf("over a file: exit code %d: %s", code, errs)
	}
	v.must(os.Remove(filepath.Join(dir, "SHA256SUMS")))
	code, _, errs = v.snap("-d", backup)
	if code != cli.ExitFailed || !strings.Contains(errs, "no backup that vmsnap has made") {
		t.Errorf("over another directory: exit code %d: %s", code, errs)
	}
	if code, _, errs := v.snap("-d", backup, "--force"); code != 0 {
		t.Errorf("--force: exit code %d: %s", code, errs)
	}
	if got := contents(t, dir); got["thesis.txt"] != "" || got["SHA256SUMS"] == "" {
		t.Errorf("behind --force: %q", listed(got))
	}
	v.unchanged(before)
}

// TestVmsnapSends sends a backup, fetches it and restores it.
func TestVmsnapSends(t *testing.T) {
	v := newClassicVM(t, false)
	before := contents(t, v.dir)
	backup, archive := t.TempDir(), filepath.Join(t.TempDir(), "it's", "web 01")
	sshStandIn(t, onThisHost)
	code, out, errs := v.snap("-d", backup, "-a", "user@host", "-R", archive)
	if code != 0 || !strings.Contains(out, "\nSending to: user@host:"+archive+"\n") {
		t.Fatalf("exit code %d: %s%s", code, out, errs)
	}
	lookAtBackup(t, v, archive, false, false)
	to := t.TempDir()
	if code, _, errs := run(t, "vmres", "-a", "user@host", "-R", archive, "-C", to); code != cli.ExitWarnings {
		t.Fatalf("vmres: exit code %d: %s", code, errs)
	}
	if entries, err := os.ReadDir(to); err != nil || len(entries) != 1 {
		t.Errorf("left by the fetch: %v", entries)
	}
	restored, err := os.ReadFile(filepath.Join(to, "web01", "web01-flat.vmdk"))
	if err != nil || string(restored[:len(v.model)]) != string(v.model) {
		t.Errorf("%v: another disk", err)
	}

	// An ssh that fails leaves the backup of this host, and no redo log.
	sent := contents(t, archive)
	sshStandIn(t, `cat > /dev/null; echo "lost" >&2; exit 255`)
	code, _, errs = v.snap("-d", backup, "-a", "user@host", "-R", archive)
	if code != cli.ExitSink || !strings.Contains(errs, "exit status 255: lost") || !strings.Contains(errs, "hint: the backup in "+backup) {
		t.Errorf("exit code %d: %s", code, errs)
	}
	lookAtBackup(t, v, filepath.Join(backup, "web01"), false, false)
	if !slices.Equal(listed(sent), listed(contents(t, archive))) {
		t.Error("what had been sent is gone")
	}
	v.unchanged(before)
	empty := t.TempDir()
	code, _, errs = run(t, "vmres", "-a", "user@host", "web01", "-C", empty)
	if code != cli.ExitSource || !strings.Contains(errs, "fetch from user@host:/vmimages/archivebackup/web01") || len(contents(t, empty)) > 0 {
		t.Errorf("vmres: exit code %d: %s", code, errs)
	}
}

// TestVmresFails restores from backups that are damaged and to places that are
// taken: nothing appears.
func TestVmresFails(t *testing.T) {
	v := newClassicVM(t, false)
	backup := t.TempDir()
	if code, _, errs := v.snap("-d", backup); code != 0 {
		t.Fatal(errs)
	}
	dir := filepath.Join(backup, "web01")
	segment := filepath.Join(dir, "web01-s001.vmdk")
	whole, err := os.ReadFile(segment)
	v.must(err)
	refused := func(what string, code int, says string, args ...string) {
		t.Helper()
		to := t.TempDir()
		got, _, errs := run(t, append([]string{"vmres", "-C", to}, args...)...)
		if got != code || !strings.Contains(errs, says) {
			t.Errorf("%s: exit code %d: %s; expected %d and %q", what, got, errs, code, says)
		}
		if entries, err := os.ReadDir(to); err != nil || len(entries) > 0 {
			t.Errorf("%s: left: %v", what, entries)
		}
	}
	flipped := slices.Clone(whole)
	flipped[len(flipped)-5] ^= 1
	v.must(os.WriteFile(segment, flipped, 0o600))
	refused("a flipped bit", cli.ExitDamage, "web01-s001.vmdk: its content is not what SHA256SUMS says", dir)
	v.must(os.WriteFile(segment, whole[:len(whole)/2], 0o600))
	refused("cut", cli.ExitDamage, "SHA256SUMS", dir)
	v.must(os.Remove(segment))
	refused("a missing file", cli.ExitDamage, "a file that SHA256SUMS lists is missing", dir)
	sums := filepath.Join(dir, "SHA256SUMS")
	v.must(os.Remove(sums))
	refused("a missing segment", cli.ExitSource, "web01-s001.vmdk", dir)
	v.must(os.WriteFile(segment, whole[:len(whole)/2], 0o600))
	refused("cut, without sums", cli.ExitDamage, "web01-s001.vmdk", dir)
	v.must(os.WriteFile(segment, whole, 0o600))
	v.must(os.WriteFile(filepath.Join(dir, "b.cfg"), nil, 0o600))
	refused("two configurations", cli.ExitUsage, "choose one with -c: b.cfg, web01.vmx", dir)
	refused("no configuration", cli.ExitSource, "no configuration in this directory", t.TempDir())
	refused("no backup", cli.ExitSource, "no such file", filepath.Join(dir, "none"))
	if code, _, errs := run(t, "vmres", "-C", t.TempDir(), "-c", "web01.vmx", "-d", dir); code != cli.ExitWarnings {
		t.Errorf("-c and -d: exit code %d: %s", code, errs)
	}
	code, _, errs := run(t, "vmres", "-C", backup, "-c", "web01.vmx", "--force", dir)
	if code != cli.ExitUsage || !strings.Contains(errs, "is the backup itself") {
		t.Errorf("over the backup: exit code %d: %s", code, errs)
	}
	code, _, errs = run(t, "vmres", "-C", filepath.Dir(v.dir), "-c", "web01.vmx", dir)
	if code != cli.ExitFailed || !strings.Contains(errs, "exists and is not empty") {
		t.Errorf("over the VM: exit code %d: %s", code, errs)
	}
}

// TestClassicUsage has the options that are wrong, alone or together.
func TestClassicUsage(t *testing.T) {
	for _, c := range [][]string{
		{"say which VM", "vmsnap"},
		{"one at a time", "vmsnap", "-c", "a.vmx", "-c", "b.vmx"},
		{"-R is a directory on the server", "vmsnap", "-c", "a.vmx", "-R", "/x"},
		{"is no host", "vmsnap", "-c", "a.vmx", "-a", "-oProxyCommand=touch x"},
		{"name a directory", "vmsnap", "-c", "a.vmx", "-a", "h", "-R", "/"},
		{"unknown command", "vmsnap", "-c", "a.vmx", "b.vmx"},
		{"unknown shorthand", "vmsnap", "-Z"},
		{"-C DIR", "vmres", "web01"},
		{"say which backup", "vmres", "-C", "x"},
		{"say which backup", "vmres", "-C", "x", "-a", "h"},
		{"both name the backup", "vmres", "-C", "x", "-a", "h", "-R", "/y", "web01"},
		{"with -R", "vmres", "-C", "x", "-a", "h", "/y/web01"},
		{"-d is for", "vmres", "-C", "x", "-a", "h", "-d", "y"},
		{"-R is a directory", "vmres", "-C", "x", "-R", "y", "z"},
		{"one backup at a time", "vmres", "-C", "x", "y", "z"},
		{"no name for a directory", "vmres", "-C", "x", "-n", "a/b", "y"},
		{"--format", "vmres", "-C", "x", "--format", "qcow2", "y"},
		{"without directories", "vmres", "-C", "x", "-c", "a/b.vmx", "y"},
		{"addredo CONFIG DISK", "addredo"},
		{"addredo CONFIG DISK", "addredo", "a", "b", "c"},
		{"ends in .vmx or .cfg", "addredo", "a.vmdk", "scsi0:0"},
	} {
		fails(t, cli.ExitUsage, c[0], c[1:]...)
	}
	v := newClassicVM(t, false)
	fails(t, cli.ExitSource, `no disk "scsi3:0"; there is scsi0:0 (web01.vmdk), scsi0:1`, "addredo", v.config, "scsi3:0")
	fails(t, cli.ExitUsage, "several disks", "addredo", v.config)
	ok(t, "addredo", v.config, "[ds1] web01/web01.vmdk")
	ok(t, "redo", "discard", v.config, "--disk", "scsi0:0")
}

// TestClassicTexts asks for help, the manual page and the version, also where
// the environment has variables of these names.
func TestClassicTexts(t *testing.T) {
	t.Setenv("VMSTREAM_VERSION", "true")
	t.Setenv("VMSTREAM_MAN", "true")
	if out := ok(t, "vmkfstools", "--help"); !strings.Contains(out, "Usage:\n  vmstream vmkfstools OPTION") {
		t.Errorf("--help: %s", out)
	}
	for _, name := range classicNames {
		if name == "vmkfstools" { // whose -h and -m are something else
			continue
		}
		if out := ok(t, name, "-V"); out != name+" (vmstream) "+Version()+"\n" {
			t.Errorf("-V: %q", out)
		}
		if out := ok(t, name, "-h"); !strings.Contains(out, "Usage:\n  vmstream "+name) {
			t.Errorf("-h: %s", out)
		}
		c, _, err := New(Streams{}).Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		if out := ok(t, name, "-m"); out != manpage.Text(c) || !strings.Contains(out, "-V, --version") {
			t.Errorf("-m: %s", out)
		}
		fails(t, cli.ExitUsage, "", name)
	}
}

func TestArgs(t *testing.T) {
	for _, c := range []struct{ argv, want []string }{
		{nil, nil},
		{[]string{"/usr/bin/vmstream", "vmsnap", "-h"}, []string{"vmsnap", "-h"}},
		{[]string{"/usr/sbin/vmsnap.pl", "-h"}, []string{"vmsnap", "-h"}},
		{[]string{"vmres"}, []string{"vmres"}},
		{[]string{"./addredo", "a"}, []string{"addredo", "a"}},
		{[]string{"vmsnap.plx", "a"}, []string{"a"}},
	} {
		if got := Args(c.argv); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q", c.argv, got)
		}
	}
}

// TestDebug looks at what -g writes to the system log.
func TestDebug(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "log")
	l, err := net.ListenPacket("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	syslogSocket = socket
	defer func() { syslogSocket = "" }()
	v := newClassicVM(t, true)
	backup := t.TempDir()
	if code, _, errs := v.snap("-g", "-d", backup); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	var lines strings.Builder
	if err := l.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	for !strings.Contains(lines.String(), "Backup complete") {
		n, _, err := l.ReadFrom(b)
		if err != nil {
			t.Fatalf("%v; in the log: %s", err, lines.String())
		}
		lines.Write(b[:n])
	}
	for _, want := range []string{"<31>", "vmsnap[", "Disk found: scsi0:0", "Free space", "Backup complete"} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("%q is not in the log: %s", want, lines.String())
		}
	}
	syslogSocket = filepath.Join(t.TempDir(), "none")
	if code, _, errs := v.snap("-g", "-d", backup); code != 0 || !strings.Contains(errs, "no system log") {
		t.Errorf("no log: exit code %d: %s", code, errs)
	}
}
