// An SSH server on golang.org/x/crypto/ssh that accepts one key and forwards TCP both ways.
//
// Usage: main ADDRESS HOST_KEY AUTHORIZED_KEYS REKEY_BYTES. It changes keys after REKEY_BYTES, or 0 for the default.
package main

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"
)

// tcpAddress is the payload of a request for a remote forward (RFC 4254 section 7.1).
type tcpAddress struct {
	Host string
	Port uint32
}

// channelAddresses is the payload of a request for a channel (RFC 4254 section 7.2).
type channelAddresses struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

func main() {
	address, hostKey, authorizedKeys, rekeyBytes := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	threshold, err := strconv.ParseUint(rekeyBytes, 10, 64)
	check(err)
	config := &ssh.ServerConfig{
		Config: ssh.Config{RekeyThreshold: threshold},
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, authorized(authorizedKeys, key)
		},
	}
	signer, err := ssh.ParsePrivateKey(content(hostKey))
	check(err)
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", address)
	check(err)
	log.Print("listening on ", address)
	for {
		connection, err := listener.Accept()
		check(err)
		go serve(connection, config)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func content(path string) []byte {
	data, err := os.ReadFile(path)
	check(err)
	return data
}

func authorized(path string, key ssh.PublicKey) error {
	for rest := content(path); len(rest) > 0; {
		known, _, _, after, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			return err
		}
		if bytes.Equal(known.Marshal(), key.Marshal()) {
			return nil
		}
		rest = after
	}
	return errors.New("unknown key")
}

// link is one SSH connection with the listeners of its remote forwards.
type link struct {
	connection *ssh.ServerConn
	mutex      sync.Mutex
	listeners  map[tcpAddress]net.Listener
}

func serve(socket net.Conn, config *ssh.ServerConfig) {
	connection, channels, requests, err := ssh.NewServerConn(socket, config)
	if err != nil {
		log.Print("login failed: ", err)
		socket.Close()
		return
	}
	it := &link{connection: connection, listeners: map[tcpAddress]net.Listener{}}
	go it.answer(requests)
	for channel := range channels {
		go direct(channel)
	}
	log.Print("connection ended: ", connection.Wait())
	it.mutex.Lock()
	defer it.mutex.Unlock()
	for _, listener := range it.listeners {
		listener.Close()
	}
}

func (it *link) answer(requests <-chan *ssh.Request) {
	for request := range requests {
		var asked tcpAddress
		ok, reply := false, []byte(nil)
		if err := ssh.Unmarshal(request.Payload, &asked); err == nil {
			switch request.Type {
			case "tcpip-forward":
				ok, reply = it.listen(asked)
			case "cancel-tcpip-forward":
				ok = it.cancel(asked)
			}
		}
		request.Reply(ok, reply)
	}
}

func (it *link) listen(asked tcpAddress) (bool, []byte) {
	listener, err := net.Listen("tcp", net.JoinHostPort(asked.Host, strconv.Itoa(int(asked.Port))))
	if err != nil {
		return false, nil
	}
	bound := tcpAddress{asked.Host, uint32(listener.Addr().(*net.TCPAddr).Port)}
	it.mutex.Lock()
	it.listeners[bound] = listener
	it.mutex.Unlock()
	go it.accept(listener, bound)
	if asked.Port != 0 {
		return true, nil
	}
	return true, ssh.Marshal(struct{ Port uint32 }{bound.Port})
}

func (it *link) cancel(asked tcpAddress) bool {
	it.mutex.Lock()
	defer it.mutex.Unlock()
	listener, found := it.listeners[asked]
	if found {
		listener.Close()
		delete(it.listeners, asked)
	}
	return found
}

func (it *link) accept(listener net.Listener, bound tcpAddress) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go it.forward(client.(*net.TCPConn), bound)
	}
}

func (it *link) forward(client *net.TCPConn, bound tcpAddress) {
	origin := client.RemoteAddr().(*net.TCPAddr)
	addresses := channelAddresses{bound.Host, bound.Port, origin.IP.String(), uint32(origin.Port)}
	channel, requests, err := it.connection.OpenChannel("forwarded-tcpip", ssh.Marshal(&addresses))
	if err != nil {
		client.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	relay(channel, client)
}

func direct(asked ssh.NewChannel) {
	var addresses channelAddresses
	if asked.ChannelType() != "direct-tcpip" || ssh.Unmarshal(asked.ExtraData(), &addresses) != nil {
		asked.Reject(ssh.UnknownChannelType, "only direct-tcpip")
		return
	}
	to := net.JoinHostPort(addresses.Host, strconv.Itoa(int(addresses.Port)))
	destination, err := net.Dial("tcp", to)
	if err != nil {
		asked.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := asked.Accept()
	if err != nil {
		destination.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	relay(channel, destination.(*net.TCPConn))
}

// relay copies both ways, with half-closes, until both ways have ended.
func relay(channel ssh.Channel, socket *net.TCPConn) {
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		io.Copy(socket, channel)
		socket.CloseWrite()
	}()
	go func() {
		defer both.Done()
		io.Copy(channel, socket)
		channel.CloseWrite()
	}()
	both.Wait()
	channel.Close()
	socket.Close()
}
