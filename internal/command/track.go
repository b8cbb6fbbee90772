// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
)

// trackFlags say what a backup keeps for increments on it, and how much an
// increment trusts what tells its changes.
type trackFlags struct {
	track blockSize
	audit share
}

func (t *trackFlags) add(c *cobra.Command) {
	t.track = pipeline.TrackParent
	t.audit = 0.01
	c.Flags().Var(&t.track, "track", "keep digests of blocks of this size in the index, a power of two from 64K to 64M (1M if no size is given), or off; with --since, as the backup before has it if not given")
	c.Flags().Lookup("track").NoOptDefVal = "1M"
	c.Flags().Var(&t.audit, "audit", "with --since, read this share of what is said to be unchanged and compare it with the backup before: 1%, 100%, off")
}

// fullTrack is the size of blocks in a full backup.
func (t *trackFlags) fullTrack() int64 { return max(int64(t.track), 0) }

// validate checks what depends on another flag.
func (t *trackFlags) validate(extent cli.Size) error {
	if t.track > 0 && int64(extent)%int64(t.track) != 0 {
		return cli.Usage(fmt.Errorf("--track %s: --extent-size %s is no multiple of it", &t.track, &extent))
	}
	return nil
}

// blockSize is the value of --track: 0 is off, pipeline.TrackParent not given.
type blockSize int64

// String returns the value as Set takes it.
func (b *blockSize) String() string {
	switch {
	case *b < 0:
		return ""
	case *b == 0:
		return "off"
	}
	return (*cli.Size)(b).String()
}

// Set parses a size or "off".
func (b *blockSize) Set(v string) error {
	if v == "off" || v == "0" {
		*b = 0
		return nil
	}
	var s cli.Size
	if err := s.Set(v); err != nil {
		return err
	}
	if !stream.ValidTrackBytes(int64(s)) {
		return fmt.Errorf("%q is no power of two from 64K to 64M", v)
	}
	*b = blockSize(s)
	return nil
}

// Type names the kind of value in help texts.
func (b *blockSize) Type() string { return "size" }

// share is the value of --audit, from 0 to 1.
type share float64

// String returns the share in per cent, or "off".
func (s *share) String() string {
	if *s == 0 {
		return "off"
	}
	return strconv.FormatFloat(float64(*s)*100, 'g', -1, 64) + "%"
}

// Set parses a percentage or "off".
func (s *share) Set(v string) error {
	if v == "off" {
		*s = 0
		return nil
	}
	n, percent := strings.CutSuffix(v, "%")
	f, err := strconv.ParseFloat(n, 64)
	if err != nil || !percent || !(f >= 0.001 && f <= 100) {
		return errors.New("a percentage from 0.001% to 100%, or off")
	}
	*s = share(f / 100)
	return nil
}

// Type names the kind of value in help texts.
func (s *share) Type() string { return "percent" }
