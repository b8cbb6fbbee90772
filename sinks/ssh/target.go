// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package ssh

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/vmstream/vmstream/internal/form"
	"github.com/vmstream/vmstream/sinks"
)

var options = []sinks.Option{
	{Name: "identity", Usage: "file with the private key, an absolute path"},
	{Name: "config", Usage: "configuration of ssh instead of the user's, an absolute path"},
	{Name: "known_hosts", Usage: "file with the hosts' keys, an absolute path without blanks"},
	{Name: "timeout", Usage: "seconds that connecting may take", Default: "30"},
}

var (
	hostForm    = form.New(`^[A-Za-z0-9][A-Za-z0-9._-]*$|^[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?$`, 253)
	userForm    = form.New(`^[A-Za-z0-9_][A-Za-z0-9._@-]*$`, 64)
	secondsForm = form.New(`^[1-9][0-9]*$`, 4)
	fileForm    = regexp.MustCompile(`^/[^\x00-\x20"'%\\]*$`) // nothing that ssh expands or splits
)

// settings are what a target says.
type settings struct {
	argv []string // of ssh, up to and with the host
	root string   // ends with a slash
	key  string
}

// parse takes the target apart. The object's directory is the root of the sink, and
// its name the key; /~/ begins a path in the user's home.
func parse(t sinks.Target) (settings, error) {
	host, path, values, err := t.URL(options)
	if err != nil {
		return settings{}, err
	}
	argv, err := login(host)
	if err != nil {
		return settings{}, err
	}
	for name, before := range map[string]string{"identity": "IdentitiesOnly=yes", "config": "", "known_hosts": ""} {
		v, ok := values[name]
		switch {
		case !ok:
			continue
		case !fileForm.MatchString(v):
			return settings{}, fmt.Errorf("ssh target: %s %q: an absolute path without blanks, quotes and %%: %w", name, v, sinks.ErrTarget)
		}
		switch name {
		case "identity":
			argv = append([]string{"-i", v, "-o", before}, argv...)
		case "config":
			argv = append([]string{"-F", v}, argv...)
		default:
			argv = append([]string{"-o", "UserKnownHostsFile=" + v}, argv...)
		}
	}
	timeout := "30"
	if v, ok := values["timeout"]; ok {
		if timeout = v; !secondsForm.MatchString(v) {
			return settings{}, fmt.Errorf("ssh target: timeout %q: a number of seconds: %w", v, sinks.ErrTarget)
		}
	}
	argv = append([]string{
		"-T", "-x", "-o", "BatchMode=yes", "-o", "ForwardAgent=no", "-o", "ClearAllForwardings=yes",
		"-o", "ConnectTimeout=" + timeout, "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8",
	}, argv...)
	root, key, err := place(path)
	return settings{argv: argv, root: root, key: key}, err
}

// login returns the arguments that say where to.
func login(s string) ([]string, error) {
	user, host := "", s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		user, host = s[:i], s[i+1:]
		if !userForm.MatchString(user) {
			return nil, fmt.Errorf("ssh target: user %q: %w", user, sinks.ErrTarget)
		}
	}
	u := url.URL{Host: host}
	if !hostForm.MatchString(u.Hostname()) {
		return nil, fmt.Errorf("ssh target: host %q: %w", u.Hostname(), sinks.ErrTarget)
	}
	var argv []string
	if u.Port() != "" {
		argv = append(argv, "-p", u.Port())
	}
	if user != "" {
		argv = append(argv, "-l", user)
	}
	return append(argv, "--", u.Hostname()), nil
}

func place(path string) (root, key string, err error) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", "", fmt.Errorf("ssh target: no path: write ssh://HOST/PATH: %w", sinks.ErrTarget)
	}
	root, key = path[:i+1], path[i+1:]
	if rest, ok := strings.CutPrefix(root, "/~/"); ok {
		root = "./" + rest
	}
	if strings.ContainsFunc(root, unicode.IsControl) {
		return "", "", fmt.Errorf("ssh target: path %q: %w", path, sinks.ErrTarget)
	}
	if key != "" {
		err = checkKey(key)
	}
	return root, key, err
}

// mark is in the names of files that are no objects yet.
const mark = ".vmstream-part-"

// checkKey refuses keys that would be no names of files below the root.
func checkKey(key string) error {
	bad := key == "" || len(key) > 1024 || strings.ContainsFunc(key, unicode.IsControl) || isPart(key)
	for part := range strings.SplitSeq(key, "/") {
		bad = bad || part == "" || part == "." || part == ".." || len(part) > 200
	}
	if bad {
		return fmt.Errorf("ssh: key %q cannot be a file there: %w", key, sinks.ErrTarget)
	}
	return nil
}

func isPart(key string) bool {
	name := key[strings.LastIndexByte(key, '/')+1:]
	return strings.HasPrefix(name, ".") && strings.Contains(name, mark)
}
