//! The generated trait: one line per method, from a request to its handler.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    RankingServer, append, history, info, rank,
    shared::{Arrival, CountedRequest},
};
use crate::{
    proto::v1::{self, ranking_service_server::RankingService},
    telemetry::Rpc,
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RankingService for RankingServer {
    async fn rank(&self, request: Request<v1::RankRequest>) -> Answer<v1::RankResponse> {
        let (at, deadline) = Arrival::of(&request, &self.shared);
        Ok(Response::new(rank::rank(&self.shared, request.into_inner(), at, deadline).await?))
    }

    async fn append_event(&self, request: Request<v1::AppendEventRequest>) -> Answer<v1::AppendEventResponse> {
        let (_, deadline) = Arrival::of(&request, &self.shared);
        Ok(Response::new(append::append_event(&self.shared, request.into_inner(), deadline).await?))
    }

    type AppendEventsStream = Pin<Box<dyn Stream<Item = Result<v1::AppendEventResponse, Status>> + Send>>;

    async fn append_events(
        &self,
        request: Request<Streaming<v1::AppendEventRequest>>,
    ) -> Answer<Self::AppendEventsStream> {
        // Without a deadline of its caller's, a stream lives as long as its caller wants.
        let deadline = request.extensions().get::<Arrival>().and_then(|arrival| arrival.deadline);
        let counted = CountedRequest::of(&request, &self.shared, Rpc::AppendEvents);
        let answers = append::append_events(&self.shared, request.into_inner(), deadline, counted)?;
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_history(&self, request: Request<v1::GetHistoryRequest>) -> Answer<v1::GetHistoryResponse> {
        let (_, deadline) = Arrival::of(&request, &self.shared);
        Ok(Response::new(history::get(&self.shared, request.into_inner(), deadline).await?))
    }

    async fn delete_history(&self, request: Request<v1::DeleteHistoryRequest>) -> Answer<v1::DeleteHistoryResponse> {
        let (_, deadline) = Arrival::of(&request, &self.shared);
        Ok(Response::new(history::delete(&self.shared, request.into_inner(), deadline).await?))
    }

    async fn get_model_info(&self, _: Request<v1::GetModelInfoRequest>) -> Answer<v1::GetModelInfoResponse> {
        Ok(Response::new(info::get(&self.shared)))
    }
}
