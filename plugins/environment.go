// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"strings"

	"github.com/vmstream/vmstream/internal/form"
)

// always are the variables that every plugin sees: where programs, temporary
// files and certificates are, and how to speak to people.
var always = []string{
	"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"SYSTEMROOT", // without it nothing gets a socket on Windows
}

var variableForm = form.New(`^[A-Za-z_][A-Za-z0-9_]*\*?$`, 129)

// minPrefixBytes is how much must stand before a star: enough to name somebody's
// variables, too much for everybody's.
const minPrefixBytes = 3

// mayAsk refuses a variable that a plugin has no business with. Those of vmstream
// are settings of other sinks, and keys.
func mayAsk(scheme, name string) error {
	if !variableForm.MatchString(name) {
		return answer("it asks for the variable %q", short(name))
	}
	prefix, star := strings.CutSuffix(name, "*")
	if star && len(prefix) < minPrefixBytes {
		return answer("it asks for all variables that begin with %q", prefix)
	}
	const ours = "VMSTREAM_"
	own := ours + strings.ToUpper(scheme) + "_"
	if strings.HasPrefix(name, own) {
		return nil
	}
	if strings.HasPrefix(name, ours) || star && strings.HasPrefix(ours, prefix) {
		return answer("it asks for the variable %s, its own begin with %s", name, own)
	}
	return nil
}

// environment picks what a plugin gets to see of all variables.
func environment(all, asked []string) []string {
	var picked []string
	for _, v := range all {
		name, _, _ := strings.Cut(v, "=")
		if name != "" && (wanted(name, always) || wanted(name, asked)) {
			picked = append(picked, v)
		}
	}
	return picked
}

func wanted(name string, patterns []string) bool {
	for _, p := range patterns {
		if prefix, star := strings.CutSuffix(p, "*"); p == name || star && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
