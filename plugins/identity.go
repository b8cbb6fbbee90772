// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"
)

// certificateTime is more than the time of a run.
const certificateTime = 10 * 365 * 24 * time.Hour

// clientCertificateVariable has the certificate of the host, by which a plugin knows
// it. It answers with its own in the handshake, and both accept nobody else.
const clientCertificateVariable = "PLUGIN_CLIENT_CERT"

// identity is the key of a host and the certificate for it. It is made here, and not by
// go-plugin's AutoMTLS, because of the curve, P-521 there: BoringSSL, which gRPC comes
// with in other languages, is known not to take it (grpc/grpc issue 6722), and it
// takes its time.
type identity struct {
	certificate tls.Certificate
	pem         []byte // of the certificate
}

func newIdentity() (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(certificateTime),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &identity{
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem:         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// config returns a new configuration for a connection. go-plugin adds the certificate
// with which the plugin has answered; without one no connection comes about.
func (i *identity) config() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{i.certificate}, MinVersion: tls.VersionTLS12, ServerName: "localhost",
		RootCAs: x509.NewCertPool(),
	}
}
