// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

const (
	amandaApplications = "/usr/lib/amanda/application"
	amandaUser         = "backup" // Debian's
)

// amandaLab is a server that is its own client, with tapes that are directories.
// Amanda has fixed directories: in a mount namespace of its own temporary ones
// cover them, so that nothing else on the machine sees this.
type amandaLab struct {
	t       *testing.T
	dir     string
	machine *machine
	holder  int // process in the namespace
}

func (l *amandaLab) path(name string) string { return filepath.Join(l.dir, name) }

func newAmandaLab(t *testing.T, backupOptions ...string) *amandaLab {
	t.Helper()
	enabled(t)
	if os.Geteuid() != 0 {
		testenv.Missing(t, "needs root for a mount namespace")
	}
	for _, name := range []string{"amdump", "amcheck", "amfetchdump", "amcheckdump", "unshare", "nsenter", "runuser"} {
		testenv.Tool(t, name)
	}
	l := &amandaLab{t: t, dir: openDir(t)}
	for _, d := range []string{"etc/lab/curinfo", "etc/lab/index", "log/lab", "lib/gnutar-lists", "tapes", "holding", "tmp", "restored"} {
		must(t, os.MkdirAll(l.path(d), 0o755))
	}
	l.machine = newMachine(t, l.dir, "web01")
	argv := []string{
		program(t), "integrate", "amanda", "--dir", l.path("etc/lab"), "--state-dir", l.path("lib/vmstream"), "--auth", "local",
		l.machine.vmx, "--",
	}
	good(t, append(argv, backupOptions...)...)
	good(t, "cp", "-a", amandaApplications, l.path("app"))
	must(t, os.Rename(l.path("etc/lab/amvmstream"), l.path("app/amvmstream")))
	l.configure()
	good(t, "chown", "-R", amandaUser+":"+amandaUser, l.path("etc"), l.path("log"), l.path("lib"), l.path("tapes"), l.path("holding"), l.path("tmp"), l.path("restored"), l.machine.dir)
	l.enter()
	return l
}

func (l *amandaLab) configure() {
	for name, content := range map[string]string{
		"etc/lab/amanda.conf": fmt.Sprintf(`
org "lab"
dumpuser %q
mailto ""
infofile "%[2]s/etc/lab/curinfo"
logdir "%[2]s/log/lab"
indexdir "%[2]s/etc/lab/index"
dumpcycle 4 days
runspercycle 4
tapecycle 6 tapes
runtapes 1
labelstr "^LAB[0-9]+$"
autolabel "LAB%%%%%%" empty volume_error
tapetype directory
define changer tapes {
  tpchanger "chg-disk:%[2]s/tapes"
  property "num-slot" "8"
  property "auto-create-slot" "yes"
}
tpchanger "tapes"
define tapetype directory {
  length 4 gbytes
}
holdingdisk holding {
  directory "%[2]s/holding"
  use 2 gb
  chunksize 1 gb
}
includefile "web01-amanda.conf"
`, amandaUser, l.dir),
		"etc/lab/disklist": "localhost web01 " + l.machine.vmx + " web01-vmstream\n",
		"etc/amandahosts":  "localhost " + amandaUser + " amdump\n",
		"lib/amandates":    "",
	} {
		must(l.t, os.WriteFile(l.path(name), []byte(content), 0o644))
	}
}

// enter makes the namespace. It lasts as long as the process that holds it,
// which ends with its stdin.
func (l *amandaLab) enter() {
	l.t.Helper()
	script := "set -e\n"
	for from, to := range map[string]string{"etc": "/etc/amanda", "app": amandaApplications, "log": "/var/log/amanda", "lib": "/var/lib/amanda"} {
		script += fmt.Sprintf("mount --bind %s %s\n", l.path(from), to)
	}
	c := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script+"echo ready\nexec cat")
	in, err := c.StdinPipe()
	must(l.t, err)
	out, err := c.StdoutPipe()
	must(l.t, err)
	c.Stderr = os.Stderr
	must(l.t, c.Start())
	l.t.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait() // it has ended by then
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		l.t.Fatalf("mount namespace: %q, %v", line, err)
	}
	l.holder = c.Process.Pid
}

// argv returns what runs a command of Amanda's as its user.
func (l *amandaLab) argv(argv ...string) []string {
	return append([]string{
		"nsenter", "--mount=/proc/" + strconv.Itoa(l.holder) + "/ns/mnt", "--wd=" + l.path("tmp"), "runuser", "-u", amandaUser, "--",
		"env", "-i", "PATH=" + os.Getenv("PATH"), "HOME=" + l.path("lib"), "LC_ALL=C",
	}, argv...)
}

func (l *amandaLab) run(argv ...string) (string, int) {
	l.t.Helper()
	return run(l.t, "", l.argv(argv...)...)
}

// dump runs amdump and returns its exit code and the report.
func (l *amandaLab) dump() (report string, code int) {
	l.t.Helper()
	out, code := l.run("amdump", "lab")
	report, _ = l.run("amreport", "lab", "--text=-")
	return out + report, code
}

// found is a line of amadmin find.
type found struct{ date, level, status string }

func (l *amandaLab) find() []found {
	l.t.Helper()
	out, _ := l.run("amadmin", "lab", "find", "localhost")
	var all []found
	for line := range strings.Lines(out) {
		// date time host disk level storage pool label file part status
		f := strings.Fields(line)
		if len(f) > 6 && f[2] == "localhost" {
			all = append(all, found{date: strings.NewReplacer("-", "", ":", "").Replace(f[0] + f[1]), level: f[4], status: strings.Join(f[5:], " ")})
		}
	}
	return all
}

// fetch returns the file that has a dump as it is on the tape.
func (l *amandaLab) fetch(date string) string {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "dump")
	argv := l.argv("amfetchdump", "-p", "lab", "localhost", "^web01$", date)
	said, err := l.unlessAborted(func() (string, error) {
		f, err := os.Create(path)
		must(l.t, err)
		defer f.Close()
		c := exec.CommandContext(l.t.Context(), argv[0], argv[1:]...)
		var said strings.Builder
		c.Stdout, c.Stderr = f, &said
		err = c.Run()
		return said.String(), err
	})
	if err != nil {
		l.t.Fatalf("amfetchdump: %v\n%s", err, said)
	}
	return path
}

// unlessAborted runs amfetchdump again if it has aborted: an assertion about its own threads
// fails now and then when it begins to read (Amanda 3.5.1), whatever is on the tape.
func (l *amandaLab) unlessAborted(fetch func() (string, error)) (said string, err error) {
	l.t.Helper()
	for range 4 {
		if said, err = fetch(); !strings.Contains(said, "xfer-source-recovery.c") || !strings.Contains(said, "assertion failed") {
			break
		}
		l.t.Logf("amfetchdump aborted: %v", err)
	}
	return said, err
}

// owned makes a directory that Amanda's user may write to.
func (l *amandaLab) owned(name string) string {
	l.t.Helper()
	must(l.t, os.Mkdir(l.path(name), 0o755))
	u, err := user.Lookup(amandaUser)
	must(l.t, err)
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	must(l.t, os.Chown(l.path(name), uid, gid))
	return l.path(name)
}
