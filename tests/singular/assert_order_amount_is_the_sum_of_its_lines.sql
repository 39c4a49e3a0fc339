-- An order's amount is what its lines add up to, rounded to the penny.
--
-- A few that differ are a warning: orders and lines were landed at different
-- moments, and the next run brings what is missing. Many are an error: lines
-- are lost, or an amount was read wrongly.
--
-- What to do: land again (pyops extract), build again, and if orders still
-- differ compare them with the source: pyops reconcile order_items.

{{ config(severity='error', warn_if='> 0', error_if='> 50') }}

with orders as (

    select * from {{ ref('int_order_revenue') }}

)

select
    order_id,
    amount,
    lines_amount
from orders
where amount != round(lines_amount, 2)
