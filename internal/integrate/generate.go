// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package integrate

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/vmstream/vmstream/internal/form"
	"github.com/vmstream/vmstream/internal/wholefile"
)

//go:embed templates
var templates embed.FS

// File is a file that is written for other software.
type File struct {
	Name    string
	Mode    fs.FileMode
	Content []byte
}

// Setup is what a configuration is made from.
type Setup struct {
	Name     string   // of the job or disk
	Source   string   // what is backed up, an absolute path
	Options  []string // of backup
	Program  string   // vmstream, an absolute path
	StateDir string   // absolute

	Dir                             string // of Bacula's scripts, on the client
	Client, Storage, Pool, Messages string
	Schedule                        string // "" for none
	RestoreTo                       string // absolute
	Bareos                          bool
	Auth                            string // of Amanda's client
}

var (
	setupName = form.New(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`, 60)
	// plainPath has nothing that a shell, a configuration parser or the plugin,
	// which splits at colons, would take for something else.
	plainPath = form.New(`^/[A-Za-z0-9_./+,@=-]*$`, 4096)
	// resource is a name in a configuration of Bacula.
	resource = form.New(`^[A-Za-z0-9][A-Za-z0-9_. -]*$`, 127)
)

// Bacula returns the files for a job of Bacula, or of Bareos. The error says
// which value cannot be part of a configuration.
func Bacula(s Setup) ([]File, error) {
	err := s.check(map[string]string{"dir": s.Dir, "program": s.Program, "state-dir": s.StateDir, "restore-to": s.RestoreTo})
	for name, v := range map[string]string{"client": s.Client, "storage": s.Storage, "pool": s.Pool, "messages": s.Messages, "schedule": s.Schedule} {
		if !resource.MatchString(v) && (name != "schedule" || v != "") {
			err = errors.Join(err, fmt.Errorf("--%s %q: letters, digits, blanks and . _ -, which names in the director's configuration are made of", name, v))
		}
	}
	if err != nil {
		return nil, err
	}
	return s.render(map[string]string{
		"bacula-director.conf": s.Name + "-director.conf", "bacula-reader": s.Name + "-reader", "bacula-writer": s.Name + "-writer",
	}, "bacula-director.conf", "bacula-reader", "bacula-writer")
}

// Amanda returns the files for a disk of Amanda's. Values of its properties have no
// blanks: in a restore it would garble them.
func Amanda(s Setup) ([]File, error) {
	err := s.check(map[string]string{"program": s.Program, "state-dir": s.StateDir, "VM": s.Source})
	for _, o := range s.Options {
		if o == "" || strings.ContainsAny(o, " \t\"\\\n") {
			err = errors.Join(err, fmt.Errorf("option %q: a property of Amanda's cannot have blanks, quotes or backslashes; write --name=value, and commands into a script", o))
		}
	}
	if !setupName.MatchString(s.Auth) {
		err = errors.Join(err, fmt.Errorf("--auth %q: such as local or bsdtcp", s.Auth))
	}
	if err != nil {
		return nil, err
	}
	return s.render(map[string]string{"amanda.conf": s.Name + "-amanda.conf", "amvmstream": "amvmstream"}, "amanda.conf", "amvmstream")
}

// NetBackup returns the scripts that NetBackup runs around the backup of a named pipe.
func NetBackup(s Setup) ([]File, error) {
	if err := s.check(map[string]string{"dir": s.Dir, "program": s.Program, "state-dir": s.StateDir}); err != nil {
		return nil, err
	}
	return s.render(map[string]string{"netbackup-start": s.Name + "-bpstart_notify", "netbackup-end": s.Name + "-bpend_notify"}, "netbackup-start", "netbackup-end")
}

// NetWorker returns the commands that NetWorker runs around a save, and what tells it
// of them.
func NetWorker(s Setup) ([]File, error) {
	if err := s.check(map[string]string{"dir": s.Dir, "program": s.Program}); err != nil {
		return nil, err
	}
	return s.render(map[string]string{
		"networker-pre": s.Name + "-networker-pre", "networker-post": s.Name + "-networker-post", "networker.res": s.Name + "-networker.res",
	}, "networker.res", "networker-pre", "networker-post")
}

// check looks at what all setups have, and at these paths.
func (s *Setup) check(paths map[string]string) error {
	var err error
	if !setupName.MatchString(s.Name) {
		err = fmt.Errorf("--name %q: up to 60 letters, digits and . _ -", s.Name)
	}
	for what, p := range paths {
		if !plainPath.MatchString(p) {
			err = errors.Join(err, fmt.Errorf("%s %q: an absolute path of letters, digits and . _ + , @ = - / only, since it becomes part of a configuration", what, p))
		}
	}
	for _, v := range append([]string{s.Source}, s.Options...) {
		if strings.ContainsAny(v, "\n\r\x00") {
			err = errors.Join(err, fmt.Errorf("%q: line breaks cannot be part of a script", v))
		}
	}
	return err
}

// render makes files of templates.
func (s *Setup) render(names map[string]string, order ...string) ([]File, error) {
	t, err := template.New("").Funcs(template.FuncMap{"sh": shellQuote}).ParseFS(templates, "templates/*")
	if err != nil {
		return nil, err
	}
	var files []File
	for _, from := range order {
		var b bytes.Buffer
		if err := t.ExecuteTemplate(&b, from, s); err != nil {
			return nil, err
		}
		mode := fs.FileMode(0o644)
		if bytes.HasPrefix(b.Bytes(), []byte("#!")) {
			mode = 0o755
		}
		files = append(files, File{Name: names[from], Mode: mode, Content: b.Bytes()})
	}
	return files, nil
}

// shellQuote makes a word of a shell's.
func shellQuote(s string) string {
	if plainPath.MatchString("/"+s) && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// WriteFiles writes files to a directory, which is made if it does not exist, and
// returns their paths. Unless force says so nothing is replaced: errors.Is finds
// fs.ErrExist, and nothing has been written then.
func WriteFiles(dir string, files []File, force bool) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var paths []string
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if _, err := os.Lstat(path); err == nil && !force {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrExist)
		}
		paths = append(paths, path)
	}
	for i, f := range files {
		if err := wholefile.Write(paths[i], f.Content, f.Mode); err != nil {
			return nil, err
		}
	}
	return paths, nil
}
