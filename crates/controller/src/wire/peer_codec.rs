//! Messages of partners as bytes.

use eversock_fields::{Fields, put_bytes, put_count, put_option};

use super::codes::kind;
use super::parts::{
    deadline, device, name, outcome, payload, place, position, put_deadline, put_device, put_name,
    put_outcome, put_place, put_position, put_record, put_short_text, record, text,
};
use super::peer::{Forward, Introduction, Manifest, Mode, PeerMessage, Standpoint, SyncMessage};
use super::{Bye, Hello, Message, Welcome, WireError};
use crate::limits::{
    BATCH_MAX, CHUNK_BYTES, CHUNKS_IN_FLIGHT, CHUNKS_MAX, HOPS_MAX, PARTITIONS_MAX,
};

/// The partition of what all share comes to those of the controllers.
const STANDPOINTS_MAX: usize = PARTITIONS_MAX + 1;

impl Message for PeerMessage {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Welcome(_) => kind::WELCOME,
            Self::Bye(_) => kind::BYE,
            Self::Introduction(_) => kind::INTRODUCTION,
            Self::Ping { .. } => kind::PING,
            Self::Pong { .. } => kind::PONG,
            Self::Sync { message, .. } => match message {
                SyncMessage::Update { .. } => kind::SYNC_UPDATE,
                SyncMessage::Taken { .. } => kind::SYNC_TAKEN,
                SyncMessage::Resync => kind::SYNC_RESYNC,
                SyncMessage::Snapshot(_) => kind::SYNC_SNAPSHOT,
                SyncMessage::Need { .. } => kind::SYNC_NEED,
                SyncMessage::Chunk { .. } => kind::SYNC_CHUNK,
                SyncMessage::Gone { .. } => kind::SYNC_GONE,
                SyncMessage::Loaded { .. } => kind::SYNC_LOADED,
            },
            Self::Forward(_) => kind::FORWARD,
            Self::Result { .. } => kind::RESULT,
            Self::Mode(_) => kind::MODE,
            Self::Parameters { .. } => kind::PARTNER_PARAMETERS,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.put(out),
            Self::Welcome(welcome) => welcome.put(out),
            Self::Bye(bye) => bye.put(out),
            Self::Introduction(introduction) => put_introduction(introduction, out),
            Self::Ping { n } | Self::Pong { n } => out.extend(n.to_le_bytes()),
            Self::Sync { partition, message } => {
                put_name(partition, out);
                put_sync(message, out);
            }
            Self::Forward(forward) => put_forward(forward, out),
            Self::Result { id, outcome } => {
                out.extend(id.to_le_bytes());
                put_outcome(outcome, out);
            }
            Self::Mode(Mode { maintenance, paused }) => {
                out.extend([u8::from(*maintenance), u8::from(*paused)]);
            }
            Self::Parameters { generation, refused } => {
                out.extend(generation.to_le_bytes());
                put_option(refused.as_ref(), out, |(generation, why), out| {
                    out.extend(generation.to_le_bytes());
                    put_short_text(why, out);
                });
            }
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::new(body);
        let message = read(kind, &mut fields)?;
        fields.end()?;
        Ok(message)
    }
}

fn read(kind: u16, fields: &mut Fields<'_>) -> Result<PeerMessage, WireError> {
    const GENERATION: &str = "a generation of parameters";
    type M = PeerMessage;
    Ok(match kind {
        kind::HELLO => M::Hello(Hello::read(fields)?),
        kind::WELCOME => M::Welcome(Welcome::read(fields)?),
        kind::BYE => M::Bye(Bye::read(fields)?),
        kind::INTRODUCTION => M::Introduction(introduction(fields)?),
        kind::PING => M::Ping { n: fields.u64("a ping's number")? },
        kind::PONG => M::Pong { n: fields.u64("a ping's number")? },
        kind::SYNC_UPDATE..=kind::SYNC_LOADED => {
            M::Sync { partition: name(fields)?, message: sync(kind, fields)? }
        }
        kind::FORWARD => M::Forward(Forward {
            id: fields.u64("a request's number")?,
            device: device(fields)?,
            visited: fields.list("how many controllers were visited", HOPS_MAX, name)?,
            seq: fields.u64("a device's counter")?,
            deadline: deadline(fields)?,
            payload: payload(fields)?,
        }),
        kind::RESULT => {
            M::Result { id: fields.u64("a request's number")?, outcome: outcome(fields)? }
        }
        kind::MODE => M::Mode(Mode {
            maintenance: fields.flag("whether there is maintenance")?,
            paused: fields.flag("whether the exchange is paused")?,
        }),
        kind::PARTNER_PARAMETERS => M::Parameters {
            generation: fields.u64(GENERATION)?,
            refused: fields.option("whether parameters were refused", |fields| {
                Ok::<_, WireError>((fields.u64(GENERATION)?, text(fields)?))
            })?,
        },
        _ => return Err(WireError::UnknownType(kind)),
    })
}

fn introduction(fields: &mut Fields<'_>) -> Result<Introduction, WireError> {
    Ok(Introduction {
        controller: name(fields)?,
        boot: fields.u128("a start of a process")?,
        place: place(fields)?,
        partitions: fields.list("how many partitions there are", STANDPOINTS_MAX, |fields| {
            Ok::<_, WireError>(Standpoint {
                partition: name(fields)?,
                head: position(fields)?,
                taken: fields.option("whether changes were taken over", position)?,
            })
        })?,
        wall_ms: fields.u64("a time of day")?,
    })
}

fn sync(kind: u16, fields: &mut Fields<'_>) -> Result<SyncMessage, WireError> {
    const SNAPSHOT: &str = "a snapshot's number";
    type M = SyncMessage;
    Ok(match kind {
        kind::SYNC_UPDATE => M::Update {
            upto: position(fields)?,
            records: fields.list("how many records there are", BATCH_MAX, record)?,
        },
        kind::SYNC_TAKEN => M::Taken { upto: position(fields)? },
        kind::SYNC_RESYNC => M::Resync,
        kind::SYNC_SNAPSHOT => M::Snapshot(manifest(fields)?),
        kind::SYNC_NEED => M::Need {
            snapshot: fields.u128(SNAPSHOT)?,
            first: index(fields)?,
            count: at_most(fields, "how many chunks are needed", CHUNKS_IN_FLIGHT)?,
        },
        kind::SYNC_CHUNK => M::Chunk {
            snapshot: fields.u128(SNAPSHOT)?,
            index: index(fields)?,
            crc: fields.u32("a chunk's sum")?,
            data: fields.bytes("the length of a chunk in bytes", CHUNK_BYTES)?.to_vec(),
        },
        kind::SYNC_GONE => M::Gone { snapshot: fields.u128(SNAPSHOT)? },
        kind::SYNC_LOADED => M::Loaded { snapshot: fields.u128(SNAPSHOT)?, at: position(fields)? },
        _ => return Err(WireError::UnknownType(kind)),
    })
}

fn manifest(fields: &mut Fields<'_>) -> Result<Manifest, WireError> {
    let manifest = Manifest {
        snapshot: fields.u128("a snapshot's number")?,
        at: position(fields)?,
        bytes: fields.u64("a snapshot's bytes")?,
        chunks: at_most(fields, "how many chunks there are", CHUNKS_MAX)?,
        records: fields.u64("a snapshot's records")?,
        digest: fields.array("a snapshot's digest")?,
    };
    let (bytes, chunks) = (manifest.bytes, manifest.chunks);
    // One of no bytes may have an empty chunk, or none.
    let fewest = bytes.div_ceil(CHUNK_BYTES as u64);
    if u64::from(chunks) != fewest && (bytes, chunks) != (0, 1) {
        return Err(WireError::Chunks { bytes, chunks });
    }
    Ok(manifest)
}

fn index(fields: &mut Fields<'_>) -> Result<u32, WireError> {
    at_most(fields, "a chunk's number", CHUNKS_MAX - 1)
}

fn at_most(fields: &mut Fields<'_>, what: &'static str, most: u32) -> Result<u32, WireError> {
    let came = fields.u32(what)?;
    if came > most {
        let (came, limit) = (came.into(), most.into());
        return Err(eversock_fields::FieldError::TooLong { what, came, limit }.into());
    }
    Ok(came)
}

fn put_introduction(introduction: &Introduction, out: &mut Vec<u8>) {
    let Introduction { controller, boot, place, partitions, wall_ms } = introduction;
    put_name(controller, out);
    out.extend(boot.to_le_bytes());
    put_place(place, out);
    put_count(partitions.len(), out);
    for Standpoint { partition, head, taken } in partitions {
        put_name(partition, out);
        put_position(*head, out);
        put_option(*taken, out, put_position);
    }
    out.extend(wall_ms.to_le_bytes());
}

fn put_sync(message: &SyncMessage, out: &mut Vec<u8>) {
    match message {
        SyncMessage::Update { upto, records } => {
            put_position(*upto, out);
            put_count(records.len(), out);
            records.iter().for_each(|record| put_record(record, out));
        }
        SyncMessage::Taken { upto } => put_position(*upto, out),
        SyncMessage::Resync => {}
        SyncMessage::Snapshot(manifest) => put_manifest(manifest, out),
        SyncMessage::Need { snapshot, first, count } => {
            out.extend(snapshot.to_le_bytes());
            out.extend(first.to_le_bytes());
            out.extend(count.to_le_bytes());
        }
        SyncMessage::Chunk { snapshot, index, crc, data } => {
            out.extend(snapshot.to_le_bytes());
            out.extend(index.to_le_bytes());
            out.extend(crc.to_le_bytes());
            put_bytes(data, out);
        }
        SyncMessage::Gone { snapshot } => out.extend(snapshot.to_le_bytes()),
        SyncMessage::Loaded { snapshot, at } => {
            out.extend(snapshot.to_le_bytes());
            put_position(*at, out);
        }
    }
}

fn put_manifest(manifest: &Manifest, out: &mut Vec<u8>) {
    let Manifest { snapshot, at, bytes, chunks, records, digest } = manifest;
    out.extend(snapshot.to_le_bytes());
    put_position(*at, out);
    out.extend(bytes.to_le_bytes());
    out.extend(chunks.to_le_bytes());
    out.extend(records.to_le_bytes());
    out.extend(digest);
}

fn put_forward(forward: &Forward, out: &mut Vec<u8>) {
    let Forward { id, device, visited, seq, deadline, payload } = forward;
    out.extend(id.to_le_bytes());
    put_device(device, out);
    put_count(visited.len(), out);
    visited.iter().for_each(|name| put_name(name, out));
    out.extend(seq.to_le_bytes());
    put_deadline(*deadline, out);
    put_bytes(payload, out);
}
