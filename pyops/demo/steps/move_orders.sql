-- What is due moves on: pending orders ship 24 to 47 hours after they were placed, shipped ones are
-- delivered after 48 to 95 hours more; one pending order in 32 is cancelled instead.
-- $1: from when on, $2: the dice.
with due as (
    select
        id,
        case
            when status = 'shipped' then 'delivered'
            when hashint8extended(id, $2) & 31 = 0 then 'cancelled'
            else 'shipped'
        end as status,
        $1 + row_number() over (order by id) * interval '1 second' as moved_at
    from orders
    where
        (status = 'pending' and ordered_at + (24 + id % 24) * interval '1 hour' <= $1)
        or (status = 'shipped' and updated_at + (48 + id % 48) * interval '1 hour' <= $1)
),

moved as (
    update orders
    set status = due.status, updated_at = due.moved_at
    from due
    where orders.id = due.id
    returning orders.status
)

select 'orders ' || status as what, count(*) from moved group by status order by status
