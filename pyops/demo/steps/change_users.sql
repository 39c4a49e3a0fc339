-- One user in 512 takes another e-mail address or moves to another country.
-- $1: from when on, $2: the dice.
with atlas as (
    select array_agg(distinct country order by country) as countries from users
),

changes as (
    select
        users.id,
        hashint8extended(users.id, $2 + 1) & 1 = 0 as is_move,
        countries[
            1 + (hashint8extended(users.id, $2 + 2) & 9223372036854775807) % cardinality(countries)
        ] as country,
        'user' || users.id || to_char($1 at time zone 'UTC', '".at"YYYYMMDD"@example.com"') as email,
        $1 + row_number() over (order by users.id) * interval '1 second' as changed_at
    from users, atlas
    where hashint8extended(users.id, $2) & 511 = 0
),

changed as (
    update users
    set
        country = case when is_move then changes.country else users.country end,
        email = case when is_move then users.email else changes.email end,
        updated_at = changes.changed_at
    from changes
    where users.id = changes.id and not (is_move and users.country = changes.country)
    returning is_move
)

select case when is_move then 'users moved' else 'e-mails changed' end as what, count(*)
from changed
group by is_move
order by is_move
