// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// baculaLab is a director with a catalog in SQLite, a storage daemon with a
// volume in a file, and a file daemon, on the loopback.
type baculaLab struct {
	t                            *testing.T
	dir                          string
	directorPort, sdPort, fdPort int
	machine                      *machine
	slow                         bool // the file daemon sends 4 MB a second
}

// baculaPlugins returns where Debian has bpipe.
func baculaPlugins(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/bacula/bpipe-fd.so", "/usr/lib/*/bacula/bpipe-fd.so"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return filepath.Dir(found[0])
		}
	}
	testenv.Missing(t, "needs the plugin bpipe-fd.so of Bacula")
	return ""
}

func newBaculaLab(t *testing.T, slow bool, backupOptions ...string) *baculaLab {
	t.Helper()
	enabled(t)
	for _, name := range []string{"bacula-dir", "bacula-sd", "bacula-fd", "bconsole", "sqlite3"} {
		testenv.Tool(t, name)
	}
	plugins := baculaPlugins(t)
	l := &baculaLab{t: t, dir: openDir(t), directorPort: freePort(t), sdPort: freePort(t), fdPort: freePort(t), slow: slow}
	for _, d := range []string{"work", "run", "volumes"} {
		must(t, os.Mkdir(l.path(d), 0o700))
	}
	l.machine = newMachine(t, l.dir, "web01")
	argv := []string{
		program(t), "integrate", "bacula", "--dir", l.path("conf"), "--state-dir", l.path("state"), "--restore-to", l.path("restored"),
		"--client", "lab-fd", "--storage", "lab-sd", "--pool", "lab", "--messages", "lab", l.machine.vmx, "--",
	}
	good(t, append(argv, backupOptions...)...)
	l.configure(plugins)
	l.catalog()
	for _, d := range []string{"sd", "fd", "dir"} {
		good(t, "bacula-"+d, "-t", "-c", l.path(d+".conf"))
	}
	for _, d := range []string{"sd", "fd", "dir"} { // the director goes first at the end
		daemon(t, l.path(d+".out"), "bacula-"+d, "-f", "-c", l.path(d+".conf"))
	}
	eventually(t, "the director answers", func() bool {
		out, code := run(t, "version\n", "bconsole", "-n", "-c", l.path("console.conf"))
		return code == 0 && strings.Contains(out, "lab-dir")
	})
	return l
}

func (l *baculaLab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *baculaLab) configure(plugins string) {
	limit := ""
	if l.slow {
		limit = "\n  Maximum Bandwidth Per Job = 4 mb/s\n"
	}
	common := fmt.Sprintf("WorkingDirectory = %q; Pid Directory = %q", l.path("work"), l.path("run"))
	for name, content := range map[string]string{
		"dir.conf": fmt.Sprintf(`
Director { Name = lab-dir; DIRport = %d; DirAddress = 127.0.0.1; QueryFile = %q; %s; Password = lab; Messages = lab }
Catalog { Name = lab; dbname = lab; dbuser = ""; dbpassword = "" }
Messages { Name = lab; append = %q = all, !skipped; catalog = all }
Client { Name = lab-fd; Address = 127.0.0.1; FDPort = %d; Password = lab; Catalog = lab; AutoPrune = no }
Storage { Name = lab-sd; Address = 127.0.0.1; SDPort = %d; Password = lab; Device = lab; Media Type = File }
Pool { Name = lab; Pool Type = Backup; Label Format = "volume-"; AutoPrune = no; Maximum Volumes = 20 }
@%s/web01-director.conf
`, l.directorPort, l.path("query.sql"), common, l.path("dir.log"), l.fdPort, l.sdPort, l.path("conf")),
		"sd.conf": fmt.Sprintf(`
Storage { Name = lab-sd; SDPort = %d; SDAddress = 127.0.0.1; %s }
Director { Name = lab-dir; Password = lab }
Device {
  Name = lab; Media Type = File; Archive Device = %q
  LabelMedia = yes; Random Access = yes; AutomaticMount = yes; RemovableMedia = no; AlwaysOpen = no
}
Messages { Name = lab; director = lab-dir = all }
`, l.sdPort, common, l.path("volumes")),
		"fd.conf": fmt.Sprintf(`
FileDaemon { Name = lab-fd; FDport = %d; FDAddress = 127.0.0.1; %s; Plugin Directory = %q%s
}
Director { Name = lab-dir; Password = lab }
Messages { Name = lab; director = lab-dir = all, !skipped, !restored }
`, l.fdPort, common, plugins, limit),
		"console.conf": fmt.Sprintf("Director { Name = lab-dir; DIRport = %d; address = 127.0.0.1; Password = lab }\n", l.directorPort),
		"query.sql":    "",
	} {
		must(l.t, os.WriteFile(l.path(name), []byte(content), 0o600))
	}
}

// catalog makes the tables with Debian's script, whose directory and name of the
// data base are to be filled in.
func (l *baculaLab) catalog() {
	b, err := os.ReadFile("/usr/share/bacula-director/make_sqlite3_tables")
	must(l.t, err)
	s := strings.NewReplacer("/var/lib/bacula", l.path("work"), "XXX_DBNAME_XXX", "lab").Replace(string(b))
	must(l.t, os.WriteFile(l.path("tables.sh"), []byte(s), 0o600))
	good(l.t, "sh", l.path("tables.sh"))
}

func (l *baculaLab) console(script string) string {
	l.t.Helper()
	// -u is a limit for each command, and wait is one.
	out, code := run(l.t, script, "bconsole", "-n", "-u", "600", "-c", l.path("console.conf"))
	if code != 0 {
		l.t.Fatalf("bconsole: %d\n%s", code, out)
	}
	return out
}

func (l *baculaLab) sql(query string) string {
	l.t.Helper()
	return strings.TrimSpace(good(l.t, "sqlite3", "-cmd", ".timeout 10000", l.path("work/lab.db"), query))
}

// job is how a job has ended.
type job struct {
	id     int
	status string // T: well; E, f: not; A: cancelled
	errors int
	log    string
}

// run runs a job to its end.
func (l *baculaLab) run(command string) job {
	l.t.Helper()
	return l.wait(l.start(command))
}

// start starts a job and returns its number.
func (l *baculaLab) start(command string) int {
	l.t.Helper()
	out := l.console(command + "\n")
	_, rest, ok := strings.Cut(out, "Job queued. JobId=")
	id, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
	if !ok || err != nil {
		l.t.Fatalf("%s: %s", command, out)
	}
	return id
}

func (l *baculaLab) wait(id int) job {
	l.t.Helper()
	j := job{id: id}
	eventually(l.t, fmt.Sprintf("job %d ends", id), func() bool {
		j.status = l.sql(fmt.Sprintf("select JobStatus from Job where JobId = %d", id))
		return j.status != "" && !strings.Contains("CRBFSMmsjcdtpiaL", j.status) // what Bacula has for jobs that wait or run
	})
	j.errors, _ = strconv.Atoi(l.sql(fmt.Sprintf("select JobErrors from Job where JobId = %d", id)))
	j.log = l.sql(fmt.Sprintf("select LogText from Log where JobId = %d order by LogId", id))
	return j
}

// names returns the files that a job has stored.
func (l *baculaLab) names(id int) string {
	l.t.Helper()
	return l.sql(fmt.Sprintf("select p.Path || n.Name from File f join Path p using (PathId) join Filename n using (FilenameId) where f.JobId = %d", id))
}
