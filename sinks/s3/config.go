// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/vmstream/vmstream/sinks"
)

var options = []sinks.Option{
	{Name: "endpoint", Usage: "the server: HOST[:PORT] or https://…; http://… goes without TLS; also VMSTREAM_S3_ENDPOINT, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL", Default: "that of AWS for the region"},
	{Name: "region", Usage: "also VMSTREAM_S3_REGION, AWS_REGION, AWS_DEFAULT_REGION", Default: "us-east-1"},
	{Name: "path-style", Usage: "1: the bucket in the path, 0: in the host's name", Default: "0 for AWS, 1 for others"},
	{Name: "part-size", Usage: "of the first parts, 5M to 5G", Default: "16M"},
	{Name: "equal-parts", Usage: "1: all parts of one size, for stores that want it", Default: "0"},
	{Name: "parallel", Usage: "parts that are sent at a time, 1 to 64", Default: "4"},
	{Name: "memory", Usage: "for parts, 16M or more; larger parts go through a file in tmp-dir", Default: "160M"},
	{Name: "tmp-dir", Usage: "where parts lie that are too large for memory", Default: "$TMPDIR or /tmp"},
	{Name: "retention", Usage: "compliance or governance: lock the object, with retain-until or retain-days"},
	{Name: "retain-until", Usage: "when the lock ends, as 2027-01-31T00:00:00Z"},
	{Name: "retain-days", Usage: "days after which the lock ends"},
	{Name: "legal-hold", Usage: "1: put a legal hold on the object", Default: "0"},
	{Name: "sse", Usage: "encryption by the server: s3, kms, or c with sse-key-file"},
	{Name: "sse-key", Usage: "for sse=kms: the name of the key"},
	{Name: "sse-key-file", Usage: "for sse=c: a file with a key of 32 bytes, as they are or in base64"},
	{Name: "storage-class", Usage: "such as STANDARD_IA"},
	{Name: "ca-file", Usage: "certificates to trust besides the system's, PEM; also AWS_CA_BUNDLE"},
	{Name: "profile", Usage: "in the credentials file; also AWS_PROFILE", Default: "default"},
	{Name: "credentials-file", Usage: "also AWS_SHARED_CREDENTIALS_FILE", Default: "~/.aws/credentials"},
	{Name: "timeout", Usage: "how long a connection may stand still", Default: "2m"},
}

// config is what a target and the environment say.
type config struct {
	endpoint        *url.URL
	region          string
	lookup          minio.BucketLookupType
	plan            plan
	sizeGiven       bool
	parallel        int
	memoryBytes     int64
	tmpDir          string
	mode            minio.RetentionMode
	until           time.Time
	days            int
	hold            bool
	sse             encrypt.ServerSide
	storageClass    string
	caFile          string
	profile         string
	credentialsFile string
	timeout         time.Duration
}

// retainUntil returns when the lock of an object that begins now ends.
func (c *config) retainUntil() time.Time {
	if c.days > 0 {
		return time.Now().UTC().AddDate(0, 0, c.days).Truncate(time.Second)
	}
	return c.until
}

// bad says that an option cannot be meant. It does not repeat the value, which may
// be a secret in the wrong place.
func bad(option, want string) error {
	return fmt.Errorf("s3 target: %s: %s: %w", option, want, sinks.ErrTarget)
}

func firstOf(given string, variables ...string) string {
	for _, name := range variables {
		if given != "" {
			break
		}
		given = os.Getenv(name)
	}
	return given
}

func configure(given map[string]string) (config, error) {
	c := config{
		region:       firstOf(given["region"], "VMSTREAM_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
		tmpDir:       given["tmp-dir"],
		storageClass: given["storage-class"],
		caFile:       firstOf(given["ca-file"], "AWS_CA_BUNDLE"),
		profile:      given["profile"], credentialsFile: given["credentials-file"],
	}
	if c.region == "" {
		c.region = "us-east-1"
	}
	for _, set := range []func(map[string]string) error{
		c.setEndpoint, c.setPlan, c.setNumbers, c.setLock, c.setEncryption,
	} {
		if err := set(given); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

func (c *config) setEndpoint(given map[string]string) error {
	text := firstOf(given["endpoint"], "VMSTREAM_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
	if text == "" {
		text = "https://s3." + c.region + ".amazonaws.com"
	}
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	const form = "write HOST[:PORT], or http://HOST[:PORT] to go without TLS"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return bad("endpoint", form)
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("endpoint", form)
	}
	c.endpoint = u
	style, set, err := yes(given, "path-style")
	if err != nil || !set {
		return err
	}
	c.lookup = minio.BucketLookupDNS
	if style {
		c.lookup = minio.BucketLookupPath
	}
	return nil
}

func (c *config) setPlan(given map[string]string) error {
	c.plan.first = defaultPartBytes
	if text, ok := given["part-size"]; ok {
		n, err := parseSize(text)
		if err != nil || n < minPartBytes || n > maxPartBytes {
			return bad("part-size", "write a size from 5M to 5G")
		}
		c.plan.first, c.sizeGiven = n, true
	}
	var err error
	c.plan.equal, _, err = yes(given, "equal-parts")
	return err
}

func (c *config) setNumbers(given map[string]string) error {
	c.parallel, c.memoryBytes, c.timeout = 4, 160<<20, 2*time.Minute
	if text, ok := given["parallel"]; ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 64 {
			return bad("parallel", "write a number from 1 to 64")
		}
		c.parallel = n
	}
	if text, ok := given["memory"]; ok {
		n, err := parseSize(text)
		if err != nil || n < 16<<20 || n > 1<<40 {
			return bad("memory", "write a size of 16M or more")
		}
		c.memoryBytes = n
	}
	if text, ok := given["timeout"]; ok {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Second || d > time.Hour {
			return bad("timeout", "write a time from 1s to 1h")
		}
		c.timeout = d
	}
	return nil
}

func (c *config) setLock(given map[string]string) error {
	var err error
	if c.hold, _, err = yes(given, "legal-hold"); err != nil {
		return err
	}
	days, until := given["retain-days"], given["retain-until"]
	switch mode := given["retention"]; mode {
	case "":
		if days != "" || until != "" {
			return bad("retention", "write compliance or governance beside retain-until or retain-days")
		}
		return nil
	case "compliance", "governance":
		c.mode = minio.RetentionMode(strings.ToUpper(mode))
	default:
		return bad("retention", "write compliance or governance")
	}
	if (days == "") == (until == "") {
		return bad("retention", "needs one of retain-until and retain-days")
	}
	if days != "" {
		if c.days, err = strconv.Atoi(days); err != nil || c.days < 1 || c.days > 36500 {
			return bad("retain-days", "write a number from 1 to 36500")
		}
		return nil
	}
	if c.until, err = time.Parse(time.RFC3339, until); err != nil || !c.until.After(time.Now()) {
		return bad("retain-until", "write a time to come, as 2027-01-31T00:00:00Z")
	}
	return nil
}

func (c *config) setEncryption(given map[string]string) error {
	kind, name, file := given["sse"], given["sse-key"], given["sse-key-file"]
	if name != "" && kind != "kms" || file != "" && kind != "c" {
		return bad("sse", "sse-key is for sse=kms, sse-key-file for sse=c")
	}
	var err error
	switch kind {
	case "":
	case "s3":
		c.sse = encrypt.NewSSE()
	case "kms":
		c.sse, err = encrypt.NewSSEKMS(name, nil)
	case "c":
		if c.endpoint.Scheme != "https" {
			return bad("sse", "c sends the key to the server, which needs https")
		}
		var key []byte
		if key, err = readKey(file); err == nil {
			c.sse, err = encrypt.NewSSEC(key)
		}
	default:
		return bad("sse", "write s3, kms or c")
	}
	if err != nil {
		return fmt.Errorf("s3 target: sse: %w: %w", err, sinks.ErrTarget)
	}
	return nil
}

// readKey reads a key of 32 bytes.
func readKey(file string) ([]byte, error) {
	if file == "" {
		return nil, errors.New("c needs sse-key-file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 128))
	if err != nil {
		return nil, err
	}
	if len(b) == 32 {
		return b, nil
	}
	if key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b))); err == nil && len(key) == 32 {
		return key, nil
	}
	return nil, fmt.Errorf("%s has no key of 32 bytes", file)
}

// yes returns an option that is 0 or 1, and if it is there.
func yes(given map[string]string, name string) (value, set bool, err error) {
	text, set := given[name]
	switch text {
	case "", "0":
		return false, set, nil
	case "1":
		return true, true, nil
	}
	return false, false, bad(name, "write 0 or 1")
}

// parseSize reads 16777216, 16M and the like; K, M, G and T are powers of 1024.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGT")
	shift := 0
	if unit := s[len(digits):]; unit != "" {
		shift = 10 * (1 + strings.Index("KMGT", unit))
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || len(s) > len(digits)+1 || n < 0 || n > math.MaxInt64>>shift {
		return 0, errors.New("no size")
	}
	return n << shift, nil
}
