// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/stream"
)

// version is set when a release is linked; otherwise the build information has it.
var version string

// Version returns the version of the program.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.console.JSON {
				return json.NewEncoder(a.Out).Encode(map[string]string{
					"version": Version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "stream_format": stream.FormatName,
				})
			}
			_, err := fmt.Fprintf(a.Out, "vmstream %s (%s, %s/%s), stream format %s\n", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, stream.FormatName)
			return err
		},
	}
}
