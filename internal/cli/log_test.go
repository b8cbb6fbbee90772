// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
)

func TestConsoleLog(t *testing.T) {
	all := func(l *slog.Logger) {
		l.Debug("d")
		l.Info("i", "n", 1)
		l = l.With("sink", "s3")
		l.Warn("w\x1b", "error", errors.New("reset"))
		l.WithGroup("g").With("a", "b").Error("e", "c", "d")
	}
	for _, k := range []struct {
		name string
		set  func(*Console)
		want string
	}{
		{"plain", func(*Console) {}, "vmstream: sink s3: w? error=reset\nvmstream: sink s3: e g.a=b g.c=d\n"},
		{"quiet", func(c *Console) { c.Quiet = true }, "vmstream: sink s3: w? error=reset\nvmstream: sink s3: e g.a=b g.c=d\n"},
		{
			"verbose",
			func(c *Console) { c.Verbose = true },
			"vmstream: d\nvmstream: i n=1\nvmstream: sink s3: w? error=reset\nvmstream: sink s3: e g.a=b g.c=d\n",
		},
		{"JSON", func(c *Console) { c.JSON = true }, `{"type":"log","fields":{"error":"reset"},"level":"warn","message":"w\u001b","sink":"s3","time":"2026-01-02T03:04:05Z"}
{"type":"log","fields":{"g.a":"b","g.c":"d"},"level":"error","message":"e","sink":"s3","time":"2026-01-02T03:04:05Z"}
`},
	} {
		t.Run(k.name, func(t *testing.T) {
			var b bytes.Buffer
			c := console(&b)
			log := c.Log() // before the flags are known
			k.set(c)
			all(log)
			if b.String() != k.want {
				t.Errorf("got\n%swant\n%s", b.String(), k.want)
			}
			if c.Warnings() != 0 {
				t.Errorf("%d warnings", c.Warnings())
			}
		})
	}
}
