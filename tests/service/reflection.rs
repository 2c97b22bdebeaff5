//! The way of grpcurl: descriptors by reflection, JSON to a message nobody compiled, a call by name, JSON again.

use std::collections::{HashMap, VecDeque};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::{Status, client::Grpc, transport::Channel};

use crate::{
    raw::Raw,
    support::{TestServer, event, recommendation},
};

/// Asks one version of the reflection service; both have the same messages.
macro_rules! reflected {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let mut client = ServerReflectionClient::new($channel);
        let mut ask = async |question: MessageRequest| {
            let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
            let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
            answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
        };
        let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
            panic!("a list of services")
        };
        let services: Vec<String> = list.service.into_iter().map(|service| service.name).collect();

        // A symbol's file, then the files that it imports, as any reflection client has to.
        let mut files = HashMap::new();
        let mut wanted = VecDeque::from([MessageRequest::FileContainingSymbol("sesrec.v1.RankingService".into())]);
        while let Some(question) = wanted.pop_front() {
            let MessageResponse::FileDescriptorResponse(answer) = ask(question).await else { panic!("a file") };
            for bytes in answer.file_descriptor_proto {
                let file = prost_types::FileDescriptorProto::decode(bytes.as_slice()).unwrap();
                let imports = file.dependency.iter().filter(|import| !files.contains_key(*import));
                wanted.extend(imports.map(|import| MessageRequest::FileByFilename(import.clone())));
                files.insert(file.name().to_owned(), file);
            }
        }
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(files.into_values()).unwrap();
        (services, pool)
    }};
}

#[tokio::test]
async fn a_call_by_reflection_and_json() {
    let server = TestServer::start().await;
    server.client().await.append_event(event("u", "e", 1, recommendation("i1"))).await.unwrap();
    let (services, pool) = reflected!(v1, server.channel().await);
    let (services_alpha, pool_alpha) = reflected!(v1alpha, server.channel().await);
    for expected in ["sesrec.v1.RankingService", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|service| service == expected), "{services:?}");
        assert!(services_alpha.iter().any(|service| service == expected), "{services_alpha:?}");
    }

    for pool in [pool, pool_alpha] {
        let json = r#"{"userId": "u", "candidateItemIds": ["i2", "i1", "what"], "topK": 1, "explain": true}"#;
        let answer = call(&pool, server.channel().await, "Rank", json).await.unwrap();
        assert_eq!(answer["items"][0]["itemId"], "i1");
        assert_eq!(answer["items"].as_array().unwrap().len(), 1);
        assert_eq!(answer["unknownItemIds"][0], "what");
        assert_eq!(answer["explanation"]["recommendations"][0]["recommendation"]["itemId"], "i1");
        let appended = r#"{"event": {"eventId": "e2", "userId": "u", "time": "2026-01-31T12:00:00Z",
            "search": {"searchId": "s", "query": "red"}}}"#;
        let answer = call(&pool, server.channel().await, "AppendEvent", appended).await.unwrap();
        assert!(answer["outcome"].is_string(), "{answer}");
        assert!(call(&pool, server.channel().await, "Rank", "{}").await.is_err());
    }
}

async fn call(pool: &DescriptorPool, channel: Channel, method: &str, json: &str) -> Result<serde_json::Value, Status> {
    let service = pool.get_service_by_name("sesrec.v1.RankingService").unwrap();
    let method = service.methods().find(|found| found.name() == method).unwrap();
    let mut json = serde_json::Deserializer::from_str(json);
    let request = DynamicMessage::deserialize(method.input(), &mut json).unwrap();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = format!("/{}/{}", service.full_name(), method.name()).parse().unwrap();
    let answer = grpc.unary(tonic::Request::new(request.encode_to_vec()), path, Raw).await?.into_inner();
    let answer = DynamicMessage::decode(method.output(), answer.as_slice()).unwrap();
    Ok(serde_json::to_value(answer).unwrap())
}
