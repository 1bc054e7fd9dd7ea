//! Session: rustls's state of one connection, whichever side of it we are on; it touches no socket.

use std::io;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, CommonState, Error};
use webpki::EndEntityCert;

/// The side of the connection that we are on.
pub enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Text was opened; there may be more.
    Received,
    /// There are records to be sent; there may be more to do.
    Sent,
    /// There is nothing to do without more bytes.
    Idle,
    /// The other side has said good-bye.
    Closed,
}

/// Bytes of a record's header: RFC 8446, section 5.1.
const HEADER_BYTES: usize = 5;

/// The most text of one record: RFC 8446, section 5.1.
const RECORD_TEXT_BYTES: usize = 16 << 10;

/// Shorter slices share a record with what follows them.
const SHORT_BYTES: usize = 4 << 10;

/// Records that are made, and wait to be sent. The room that they are made in is kept.
#[derive(Default)]
pub struct Records {
    bytes: Vec<u8>,
    length: usize,
}

impl Records {
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Puts what is in `other` behind, and empties it.
    pub fn append(&mut self, other: &mut Records) {
        self.room(other.length)[..other.length].copy_from_slice(other.as_slice());
        self.length += other.length;
        other.clear();
    }

    /// Returns room for at least `more` bytes.
    fn room(&mut self, more: usize) -> &mut [u8] {
        if self.bytes.len() - self.length < more {
            self.bytes.resize(self.length + more, 0);
        }
        &mut self.bytes[self.length..]
    }

    /// Has `make` write into the room that there is; if it says that it needs so much more, again.
    fn make<E>(&mut self, mut make: impl FnMut(&mut [u8]) -> Result<usize, NoRoom<E>>) -> Result<(), E> {
        let mut more = 0;
        loop {
            match make(self.room(more)) {
                Ok(length) => {
                    self.length += length;
                    return Ok(());
                }
                Err(NoRoom::Needs(bytes)) => more = bytes,
                Err(NoRoom::Other(error)) => return Err(error),
            }
        }
    }
}

/// Why nothing was written into a room.
enum NoRoom<E> {
    Needs(usize),
    Other(E),
}

impl From<EncryptError> for NoRoom<Error> {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => NoRoom::Needs(size.required_size),
            EncryptError::EncryptExhausted => NoRoom::Other(Error::EncryptError),
        }
    }
}

impl From<EncodeError> for NoRoom<Error> {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => NoRoom::Needs(size.required_size),
            EncodeError::AlreadyEncoded => NoRoom::Other(Error::EncryptError),
        }
    }
}

/// What is done once nothing has to be done first.
enum Act<'a> {
    /// Opened text goes there.
    Open(&'a mut dyn FnMut(&[u8])),
    Seal(&'a [u8]),
}

impl Session {
    /// Does the next thing that can be done with the records in `incoming`: `take` is given opened text, records that
    /// are to be sent are put behind `outgoing`. Returns how many bytes of `incoming` are done with.
    ///
    /// # Errors
    /// In words for people. What the other side is to be told is in `outgoing` then.
    pub fn process(
        &mut self,
        incoming: &mut [u8],
        take: &mut dyn FnMut(&[u8]),
        outgoing: &mut Records,
    ) -> io::Result<(usize, Progress)> {
        self.step(incoming, Act::Open(take), outgoing).map_err(|error| {
            // The alert goes before the error, which comes again if there is none.
            let _ = self.step(incoming, Act::Open(&mut |_| {}), outgoing);
            refusal(error)
        })
    }

    /// Seals `parts`, one after the other, and puts the records behind `outgoing`. Short ones share a record, by way of
    /// `joined`, which is empty before and after.
    ///
    /// # Errors
    /// If the connection is over.
    pub fn seal(&mut self, parts: &[&[u8]], joined: &mut Vec<u8>, outgoing: &mut Records) -> io::Result<()> {
        for part in parts {
            let mut text = *part;
            if text.len() < SHORT_BYTES || !joined.is_empty() {
                let (fits, rest) = text.split_at(text.len().min(RECORD_TEXT_BYTES - joined.len()));
                joined.extend_from_slice(fits);
                if joined.len() < RECORD_TEXT_BYTES {
                    continue;
                }
                self.seal_text(joined, outgoing)?;
                joined.clear();
                text = rest;
            }
            if !text.is_empty() {
                self.seal_text(text, outgoing)?;
            }
        }
        if !joined.is_empty() {
            self.seal_text(joined, outgoing)?;
            joined.clear();
        }
        Ok(())
    }

    fn seal_text(&mut self, text: &[u8], outgoing: &mut Records) -> io::Result<()> {
        loop {
            // The reading end has opened all that came, and refuses what leaves rustls with a part of a message.
            match self.step(&mut [], Act::Seal(text), outgoing).map_err(refusal)? {
                (_, Progress::Idle) => return Ok(()),
                (_, Progress::Sent) => {}
                (_, Progress::Received | Progress::Closed) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn step(
        &mut self,
        incoming: &mut [u8],
        act: Act<'_>,
        outgoing: &mut Records,
    ) -> Result<(usize, Progress), Error> {
        match self {
            Session::Client(client) => settle(client.process_tls_records(incoming), act, outgoing),
            Session::Server(server) => settle(server.process_tls_records(incoming), act, outgoing),
        }
    }

    fn common(&self) -> &CommonState {
        match self {
            Session::Client(client) => client,
            Session::Server(server) => server,
        }
    }

    /// Tells whether the handshake is not done yet.
    pub fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Returns the name in the other side's certificate, which is proven to be its own.
    ///
    /// # Errors
    /// If there is none, which no certificate of a cluster's authority lacks.
    pub fn peer_name(&self) -> io::Result<String> {
        let first = self.common().peer_certificates().and_then(<[CertificateDer<'_>]>::first);
        let name = first.and_then(|certificate| {
            EndEntityCert::try_from(certificate).ok()?.valid_dns_names().next().map(str::to_owned)
        });
        name.ok_or_else(|| io::Error::other("its certificate has no name"))
    }
}

fn settle<D>(
    UnbufferedStatus { discard, state, .. }: UnbufferedStatus<'_, '_, D>,
    act: Act<'_>,
    outgoing: &mut Records,
) -> Result<(usize, Progress), Error> {
    let progress = match (state?, act) {
        (ConnectionState::ReadTraffic(mut traffic), Act::Open(take)) => {
            while let Some(record) = traffic.next_record() {
                take(record?.payload);
            }
            Progress::Received
        }
        (ConnectionState::EncodeTlsData(mut data), _) => {
            outgoing.make(|room| Ok(data.encode(room)?))?;
            Progress::Sent
        }
        (ConnectionState::TransmitTlsData(data), _) => {
            // Whoever has called sends it.
            data.done();
            Progress::Sent
        }
        (ConnectionState::WriteTraffic(mut traffic), Act::Seal(text)) => {
            outgoing.make(|room| Ok(traffic.encrypt(text, room)?))?;
            Progress::Idle
        }
        (ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake, Act::Open(_)) => {
            Progress::Idle
        }
        (ConnectionState::PeerClosed | ConnectionState::Closed, _) => Progress::Closed,
        // Early data is never asked for; the others are not there before the handshake is done, or are there only for
        // who does not open all that comes.
        _ => Progress::Received,
    };
    Ok((discard, progress))
}

/// Tells whether `bytes` begin with a whole record.
pub fn is_whole_record(bytes: &[u8]) -> bool {
    let length =
        bytes.get(3..HEADER_BYTES).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
    length.is_some_and(|length| bytes.len() >= HEADER_BYTES + length)
}

/// What the other side says is no TLS at all.
#[derive(Debug, thiserror::Error)]
#[error("it does not speak TLS")]
pub struct NotTls;

/// An error of TLS in words for people.
pub fn refusal(error: Error) -> io::Error {
    let text = match &error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is of another cluster"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is another worker's",
        Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => "its certificate is not for this end of a connection",
        Error::NoCertificatesPresented => "it has no certificate",
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied,
        ) => "it does not accept our certificate: it belongs to another cluster",
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate of its cluster"
        }
        Error::InvalidMessage(_) => return io::Error::new(io::ErrorKind::InvalidData, NotTls),
        Error::PeerIncompatible(_) => "it does not speak TLS 1.3",
        _ => return io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}")),
    };
    io::Error::new(io::ErrorKind::InvalidData, text)
}
