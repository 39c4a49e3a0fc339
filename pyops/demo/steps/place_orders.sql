-- New orders, each with the lines of an earlier one, at the prices of now. One in eight that has a
-- user goes to one who registered lately. A copy of a credit note (C...) is one again, and
-- cancelled from the start as all of them are. $1: from when on, $2: the dice.
with bounds as (
    select
        (select max(id) from orders) as last_order,
        (select max(id) from users) as last_user
),

picks as (
    select
        n,
        hashint8extended(n, $2) & 7 = 0 as is_new_user,
        bounds.last_user - (hashint8extended(n, $2 + 1) & 63) as new_user_id,
        1 + (hashint8extended(n, $2 + 2) & 9223372036854775807) % bounds.last_order as model_id
    from bounds, generate_series(1, 15 + (hashint8extended(0, $2) & 15)) as n
),

carts as (
    select
        nextval(pg_get_serial_sequence('orders', 'id')) as id,
        models.id as model_id,
        models.invoice_no like 'C%' as is_credit_note,
        users.id as user_id,
        coalesce(users.country, models.country) as country,
        $1 + picks.n * interval '1 minute' as ordered_at
    from picks
    inner join orders as models
        on picks.model_id = models.id and models.invoice_no not like 'A%'
    left join users as newcomers
        on picks.new_user_id = newcomers.id and picks.is_new_user and models.user_id is not null
    left join users on coalesce(newcomers.id, models.user_id) = users.id
    order by picks.n
),

lines as (
    select
        carts.id as order_id,
        items.product_id,
        items.line_number,
        items.description,
        items.quantity,
        case
            when
                items.quantity > 0
                and items.unit_price > 0
                and products.unit_price > 0
                and products.stock_code ~ '^[0-9]'
                then products.unit_price
            else items.unit_price
        end as unit_price,
        carts.ordered_at
    from carts
    inner join order_items as items on carts.model_id = items.order_id
    inner join products on items.product_id = products.id
),

amounts as (
    select order_id, round(sum(quantity * unit_price) * 100)::bigint as amount_cents
    from lines
    group by order_id
),

placed as (
    insert into orders (
        id, invoice_no, user_id, country, status, amount_cents,
        ordered_at, created_at, updated_at
    )
    select
        carts.id,
        -- Invoice numbers go on from the history's last, 581587, whose order is number 25900.
        case when carts.is_credit_note then 'C' else '' end || (carts.id + 555687),
        carts.user_id,
        carts.country,
        case when carts.is_credit_note then 'cancelled' else 'pending' end,
        amounts.amount_cents,
        carts.ordered_at,
        carts.ordered_at,
        carts.ordered_at
    from carts
    inner join amounts on carts.id = amounts.order_id
    returning id
),

filled as (
    insert into order_items (
        order_id, product_id, line_number, description, quantity, unit_price,
        created_at, updated_at
    )
    select
        order_id, product_id, line_number, description, quantity, unit_price,
        ordered_at, ordered_at
    from lines
    order by order_id, line_number
    returning id
)

select 'orders placed' as what, count(*) from placed
union all
select 'items in new orders', count(*) from filled
