// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

var errNoCredentials = errors.New("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write a credentials file")

// metadataTime is how long a cloud's service for credentials may take to answer.
const metadataTime = 10 * time.Second

// chain finds credentials where other programs do: in the environment, in the
// shared files, at the cloud's own service. A target that names a profile or a file
// means it, whatever the environment has. It is called under a lock.
type chain struct {
	profile, file string
	current       credentials.Provider

	mu   sync.Mutex
	last credentials.Value
}

// secrets returns what must not be repeated.
func (c *chain) secrets() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []string{c.last.SecretAccessKey, c.last.SessionToken, c.last.AccessKeyID}
}

func (c *chain) providers() []credentials.Provider {
	file := &credentials.FileAWSCredentials{Filename: c.file, Profile: c.profile}
	if c.profile != "" || c.file != "" {
		return []credentials.Provider{file}
	}
	all := []credentials.Provider{&credentials.EnvAWS{}, file}
	other := firstOf("", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
	if os.Getenv("AWS_EC2_METADATA_DISABLED") != "true" || other != "" { // which come before an instance's
		all = append(all, &credentials.IAM{})
	}
	return all
}

// RetrieveWithCredContext returns the first credentials that are found. Errors do
// not repeat what files have in them.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	bounded := credentials.CredContext{}
	if cc != nil {
		bounded = *cc
	}
	if bounded.Context == nil {
		bounded.Context = context.Background()
	}
	ctx, cancel := context.WithTimeout(bounded.Context, metadataTime)
	defer cancel()
	bounded.Context = ctx
	c.current = nil
	for _, p := range c.providers() {
		v, err := p.RetrieveWithCredContext(&bounded)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.current = p
			c.mu.Lock()
			c.last = v
			c.mu.Unlock()
			return v, nil
		}
	}
	if c.profile != "" || c.file != "" {
		return credentials.Value{}, fmt.Errorf("profile %q of the credentials file has none: %w", c.profile, errNoCredentials)
	}
	return credentials.Value{}, errNoCredentials
}

// Retrieve is there for the interface.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// IsExpired reports if credentials have to be fetched.
func (c *chain) IsExpired() bool { return c.current == nil || c.current.IsExpired() }
