-- DuckDB. Makes the shop's four tables of the invoice lines in `source`, the Parquet file.
-- data/README.md states every rule that is applied here.

create temp table lines as
select
    file_row_number + 1 as id,
    invoice_no,
    row_number() over (partition by invoice_no order by file_row_number) as line_number,
    stock_code,
    description,
    quantity,
    unit_price,
    customer_id::decimal(12, 1)::bigint as user_id,
    country,
    invoice_date as created_at
from source;

create temp table invoices as
select
    row_number() over (order by min(lines.id)) as id,
    invoice_no,
    any_value(user_id) as user_id,
    any_value(country) as country,
    round(sum(quantity * unit_price) * 100)::bigint as amount_cents,
    min(created_at) as ordered_at,
    max(created_at) as completed_at
from lines
group by invoice_no;

create temp table orders as
with the_end as (
    select max(ordered_at)::date + interval 1 day as closed_at from invoices
),

scheduled as (
    select
        *,
        left(invoice_no, 1) in ('C', 'A') as is_entry,
        ordered_at + to_hours(24 + id % 24) as shipped_at,
        shipped_at + to_hours(48 + id % 48) as delivered_at
    from invoices
),

stated as (
    select
        *,
        case
            when invoice_no like 'C%' then 'cancelled'
            when is_entry or delivered_at < closed_at then 'delivered'
            when shipped_at < closed_at then 'shipped'
            else 'pending'
        end as status
    from scheduled, the_end
)

select
    id,
    invoice_no,
    user_id,
    country,
    status,
    amount_cents,
    ordered_at,
    ordered_at as created_at,
    case
        when is_entry or status = 'pending' then completed_at
        when status = 'shipped' then shipped_at
        else delivered_at
    end as updated_at
from stated
order by id;

create temp table users as
with moves as (
    select
        *,
        country is distinct from
            lag(country) over (partition by user_id order by id) as is_new_country
    from invoices
    where user_id is not null
)

select
    user_id as id,
    'user' || user_id || '@example.com' as email,
    last(country order by id) as country,
    min(ordered_at) as created_at,
    max(ordered_at) filter (where is_new_country) as updated_at
from moves
group by user_id
order by user_id;

create temp table products as
with descriptions as (
    select stock_code, description
    from lines
    where regexp_matches(description, '[^?\s]')
    group by stock_code, description
    qualify row_number() over (
        partition by stock_code order by count(*) desc, min(id)
    ) = 1
),

prices as (
    select stock_code, unit_price, created_at as updated_at
    from lines
    qualify row_number() over (
        partition by stock_code
        order by
            (regexp_matches(invoice_no, '^\d') and quantity > 0 and unit_price > 0) desc,
            id desc
    ) = 1
),

codes as (
    select
        row_number() over (order by min(id)) as id,
        stock_code,
        min(created_at) as created_at
    from lines
    group by stock_code
)

select
    codes.id,
    codes.stock_code,
    descriptions.description,
    prices.unit_price,
    codes.created_at,
    prices.updated_at
from codes
inner join prices on codes.stock_code = prices.stock_code
left join descriptions on codes.stock_code = descriptions.stock_code
order by codes.id;

create temp table order_items as
select
    lines.id,
    orders.id as order_id,
    products.id as product_id,
    lines.line_number::integer as line_number,
    lines.description,
    lines.quantity,
    lines.unit_price,
    lines.created_at,
    lines.created_at as updated_at
from lines
inner join orders on lines.invoice_no = orders.invoice_no
inner join products on lines.stock_code = products.stock_code
order by lines.id;
