// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/internal/builtin"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/plugins"
)

// What the environment says about plugins; see docs/plugins.md.
const (
	pluginDirVariable      = "VMSTREAM_PLUGIN_DIR"
	pluginSumsVariable     = "VMSTREAM_PLUGIN_SHA256"
	pluginOverrideVariable = "VMSTREAM_PLUGIN_OVERRIDE"
)

// ServePlugin is all of a run that vmstream has started to have a built-in sink in a
// process of its own, and reports if this is one. It must come before anything else:
// files that the process has inherited are closed.
func ServePlugin(argv []string, stdin io.Reader, stderr io.Writer) (code int, is bool) {
	if len(argv) != 3 || argv[1] != plugins.ServeCommand {
		return 0, false
	}
	err := fmt.Errorf("no built-in sink is called %s", argv[2])
	for _, d := range builtin.Drivers() {
		if d.Describe().Scheme == argv[2] {
			_ = os.WriteFile("/proc/self/comm", []byte("vmstream"), 0) // Linux may call us exe, which says little
			err = plugins.Serve(d, stdin)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "vmstream:", err)
		return cli.ExitFailed, true
	}
	return cli.ExitDone, true
}

// host returns what opens sinks.
func (a *app) host() (*plugins.Host, error) {
	dirs := os.Getenv(pluginDirVariable)
	for _, d := range filepath.SplitList(dirs) {
		if d != "" && !filepath.IsAbs(d) {
			return nil, cli.Usage(fmt.Errorf("%s: %s is no absolute path", pluginDirVariable, d))
		}
	}
	sums, err := plugins.ParseChecksums(os.Getenv(pluginSumsVariable))
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("%s: %w", pluginSumsVariable, err))
	}
	return plugins.NewHost(plugins.Options{
		Builtin: builtin.Drivers(), Dirs: plugins.Dirs(dirs, a.Program), Checksums: sums,
		Override: strings.FieldsFunc(os.Getenv(pluginOverrideVariable), func(r rune) bool { return r == ',' || r == ' ' }),
		Log:      a.console.Log(), InProcess: a.Program == "",
	}), nil
}

// noSink is the error for a scheme that no sink has.
func noSink(scheme string) error {
	return &cli.Error{
		Code: cli.ExitUsage, Err: fmt.Errorf("no sink is called %s", scheme),
		Hint: "write ./ before the path of a file; vmstream sink list tells which sinks there are",
	}
}

// asPlugin marks err as trouble with a sink if it is trouble with its process,
// whatever it looks like to who was reading or writing.
func asPlugin(err error) error {
	var coded *cli.Error
	if !errors.Is(err, plugins.ErrPlugin) || errors.As(err, &coded) && coded.Code == cli.ExitSink {
		return err
	}
	return &cli.Error{Code: cli.ExitSink, Err: err}
}
