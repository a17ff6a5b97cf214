-- What examples/postgres.yaml reads: a table that machines, or programs for them, write to.
create schema if not exists plant;
create table if not exists plant.events (
    id bigint generated always as identity primary key,
    machine text not null,
    at timestamptz not null,
    celsius double precision,
    changed timestamptz not null default clock_timestamp()
);
create index if not exists events_changed on plant.events (changed, id);
