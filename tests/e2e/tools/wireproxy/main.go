// Command wireproxy stands between a client and a server, of a registry or of S3.
// It writes one JSON line per request, so that a case can count what really
// crossed the wire without trusting the server's own log. It can cut the body of
// one blob download short, as a broken network would, and be as slow as S3: a
// delay before each response, and a bound on the bytes per second of each
// connection.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// entry is one line of the request log. Sizes are of bodies only; the digest is
// the one the server answered with.
type entry struct {
	Time     string `json:"time"`
	Method   string `json:"method"`
	Path     string `json:"path"`
	Query    string `json:"query"`
	Status   int    `json:"status"`
	Range    string `json:"range"`
	Type     string `json:"type"`
	BytesIn  int64  `json:"bytes_in"`
	BytesOut int64  `json:"bytes_out"`
	Digest   string `json:"digest"`
	Cut      bool   `json:"cut"`
}

// limitKey carries the response writer to ModifyResponse, the only place that
// knows the length of the body before it is copied.
type limitKey struct{}

type recorder struct {
	mu  sync.Mutex
	out io.Writer
}

func (r *recorder) write(e entry) {
	line, err := json.Marshal(e)
	if err != nil {
		log.Printf("request log: %v", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.out.Write(append(line, '\n')); err != nil {
		log.Printf("request log: %v", err)
	}
}

// countedBody counts what the server read of a request body.
type countedBody struct {
	io.ReadCloser
	n atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// limitedWriter counts the response body and, past cutAfter bytes, drops the
// connection. A panic with ErrAbortHandler is how net/http closes a connection
// without finishing the response.
type limitedWriter struct {
	http.ResponseWriter
	status   int
	n        int64
	cutAfter int64
	cut      bool
}

func (w *limitedWriter) WriteHeader(status int) {
	if status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.cutAfter < 0 || w.n+int64(len(p)) <= w.cutAfter {
		n, err := w.ResponseWriter.Write(p)
		w.n += int64(n)
		return n, err
	}
	n, _ := w.ResponseWriter.Write(p[:w.cutAfter-w.n])
	w.n += int64(n)
	w.Flush()
	w.cut = true
	panic(http.ErrAbortHandler)
}

func (w *limitedWriter) Flush() {
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		log.Printf("flush: %v", err)
	}
}

func (w *limitedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// cutter decides which download is cut: the nth GET of a blob of at least
// minBytes, counted from 1. Small blobs are configs, and a client does not
// resume those.
type cutter struct {
	nth      int64
	after    int64
	minBytes int64
	seen     atomic.Int64
}

func (c *cutter) limit(method, path string, length int64) int64 {
	if c.nth == 0 || method != http.MethodGet || !strings.Contains(path, "/blobs/") || length < c.minBytes {
		return -1
	}
	if c.seen.Add(1) != c.nth {
		return -1
	}
	return c.after
}

func main() {
	target := flag.String("target", "", "host:port of the server behind")
	logPath := flag.String("log", "", "file of the request log, one JSON object a line")
	portFile := flag.String("port-file", "", "file to write the port of this proxy to, once it listens")
	cut := &cutter{}
	flag.Int64Var(&cut.nth, "cut-nth", 0, "cut the nth matching blob download, counted from 1 (0: none)")
	flag.Int64Var(&cut.after, "cut-after", 1<<20, "bytes of the body to let through before the cut")
	flag.Int64Var(&cut.minBytes, "cut-min", 1<<20, "smallest body that counts as a match")
	delay := flag.Duration("delay", 0, "wait before the first byte of each response")
	rate := flag.Int64("rate", 0, "bytes per second that a client's connection may carry in each direction (0: no bound)")
	flag.Parse()
	if *target == "" || *logPath == "" || *portFile == "" {
		flag.Usage()
		os.Exit(2)
	}
	out, err := os.OpenFile(*logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	rec := &recorder{out: out}
	server := &http.Server{Handler: handler(*target, rec, cut, *delay), ReadHeaderTimeout: 30 * time.Second}
	// Written under another name and renamed, so that a reader never sees half of it.
	port := fmt.Sprintf("%d\n", listener.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(*portFile+".new", []byte(port), 0o644); err != nil {
		log.Fatal(err)
	}
	if err := os.Rename(*portFile+".new", *portFile); err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(slowListener{listener, *rate}))
}

func handler(target string, rec *recorder, cut *cutter, delay time.Duration) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: target})
			// An absolute Location must lead back through this proxy, and S3's
			// signatures are over the name the client used.
			r.Out.Host = r.In.Host
		},
		FlushInterval: -1,
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256},
		ModifyResponse: func(r *http.Response) error {
			time.Sleep(delay)
			limit := cut.limit(r.Request.Method, r.Request.URL.Path, r.ContentLength)
			r.Request.Context().Value(limitKey{}).(*limitedWriter).cutAfter = limit
			return nil
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &countedBody{ReadCloser: r.Body}
		if r.Body != http.NoBody {
			r.Body = body
		}
		limited := &limitedWriter{ResponseWriter: w, status: http.StatusOK, cutAfter: -1}
		defer func() {
			rec.write(entry{
				Time: time.Now().UTC().Format(time.RFC3339Nano), Method: r.Method, Path: r.URL.Path,
				Query: r.URL.RawQuery, Status: limited.status, Range: r.Header.Get("Range"),
				Type: r.Header.Get("Content-Type"), BytesIn: body.n.Load(), BytesOut: limited.n,
				Digest: w.Header().Get("Docker-Content-Digest"), Cut: limited.cut,
			})
		}()
		proxy.ServeHTTP(limited, r.WithContext(context.WithValue(r.Context(), limitKey{}, limited)))
	})
}
