package main

import (
	"net"
	"time"
)

// slowListener accepts connections that carry at most rate bytes a second in
// each direction.
type slowListener struct {
	net.Listener
	rate int64
}

func (l slowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil || l.rate == 0 {
		return conn, err
	}
	return &slowConn{Conn: conn, in: pace{rate: l.rate}, out: pace{rate: l.rate}}, nil
}

type slowConn struct {
	net.Conn
	in, out pace
}

// step is how much goes at once: small enough to be smooth, large enough that
// the sleeps in between are longer than the clock is coarse.
const step = 64 << 10

func (c *slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), step)])
	c.in.wait(n)
	return n, err
}

func (c *slowConn) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n, err := c.Conn.Write(p[:min(len(p), step)])
		written += n
		if err != nil {
			return written, err
		}
		p = p[n:]
		c.out.wait(n)
	}
	return written, nil
}

// pace is when the next byte of a direction is due. Used by one goroutine.
type pace struct {
	rate int64
	due  time.Time
}

// wait holds up the one who moved n bytes. Time in which nothing moved is not
// saved up.
func (p *pace) wait(n int) {
	if now := time.Now(); p.due.Before(now) {
		p.due = now
	}
	p.due = p.due.Add(time.Duration(int64(n) * int64(time.Second) / p.rate))
	time.Sleep(time.Until(p.due))
}
